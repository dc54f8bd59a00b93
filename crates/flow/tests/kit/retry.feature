Feature: Attempts
  As somebody who writes workflows
  I want what fails for a moment to be tried again
  So that nobody has to start the workflow again

  Scenario: It is tried again until it goes well
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: again, version: '1.0.0'}
    do:
      - attempt:
          try:
            - pay:
                call: http
                with: { method: post, endpoint: http://bank/ }
          catch:
            retry: { delay: { seconds: 3 } }
    """
    And the service http://bank/ answers POST with status 503
    And the service http://bank/ answers POST with status 502
    And the service http://bank/ answers POST with status 200:
    """yaml
    paid
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    paid
    """
    And the service http://bank/ should have been asked 3 times
    And the workflow should take PT6S

  Scenario: Each attempt begins with the input of the try
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: input, version: '1.0.0'}
    do:
      - attempt:
          try:
            - add: { set: { n: '${ .n + 1 }' } }
            - pay:
                call: http
                with: { method: post, endpoint: http://bank/, body: '${ .n }' }
          catch:
            retry: { delay: PT1S, limit: { attempt: { count: 2 } } }
    """
    And given the workflow input is:
    """yaml
    n: 1
    """
    And the service http://bank/ answers POST with status 503
    And the service http://bank/ answers POST with status 200
    When the workflow is executed
    Then the workflow should complete
    And the service http://bank/ should have been sent:
    """yaml
    body: 2
    """

  # The first attempt is none of those that are counted
  Scenario: The delay is the same where it is constant
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: constant, version: '1.0.0'}
    do:
      - attempt:
          try:
            - pay:
                call: http
                with: { method: post, endpoint: http://bank/ }
          catch:
            retry:
              delay: { seconds: 2 }
              backoff: { constant: {} }
              limit: { attempt: { count: 3 } }
    """
    And the service http://bank/ answers POST with status 503
    When the workflow is executed
    Then the workflow should fault with error:
    """yaml
    { status: 503, instance: /do/0/attempt/try/0/pay }
    """
    And the service http://bank/ should have been asked after:
    """yaml
    [ PT0S, PT2S, PT4S, PT6S ]
    """

  Scenario: The delay grows by itself where it is linear
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: linear, version: '1.0.0'}
    do:
      - attempt:
          try:
            - pay:
                call: http
                with: { method: post, endpoint: http://bank/ }
          catch:
            retry:
              delay: PT2S
              backoff: { linear: {} }
              limit: { attempt: { count: 3 } }
    """
    And the service http://bank/ answers POST with status 503
    When the workflow is executed
    Then the workflow should fault
    And the service http://bank/ should have been asked after:
    """yaml
    [ PT0S, PT2S, PT6S, PT12S ]
    """

  Scenario: The delay doubles where it is exponential
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: exponential, version: '1.0.0'}
    do:
      - attempt:
          try:
            - pay:
                call: http
                with: { method: post, endpoint: http://bank/ }
          catch:
            retry:
              delay: PT2S
              backoff: { exponential: {} }
              limit: { attempt: { count: 4 } }
            do:
              - later: { set: { later: '${ $error.status }' } }
    """
    And the service http://bank/ answers POST with status 503
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    later: 503
    """
    And the service http://bank/ should have been asked after:
    """yaml
    [ PT0S, PT2S, PT6S, PT14S, PT30S ]
    """

  Scenario: Jitter is added to the delay
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: jitter, version: '1.0.0'}
    do:
      - attempt:
          try:
            - pay:
                call: http
                with: { method: post, endpoint: http://bank/ }
          catch:
            retry:
              delay: PT10S
              jitter: { from: { milliseconds: 500 }, to: { seconds: 2 } }
              limit: { attempt: { count: 4 } }
    """
    And the service http://bank/ answers POST with status 503
    When the workflow is executed
    Then the workflow should fault
    And the service http://bank/ should have been asked 5 times
    And the workflow should take from PT42S to PT48S

  Scenario: Without a delay it is tried again at once
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: no-delay, version: '1.0.0'}
    do:
      - attempt:
          try:
            - pay:
                call: http
                with: { method: post, endpoint: http://bank/ }
          catch:
            retry: { limit: { attempt: { count: 2 } } }
    """
    And the service http://bank/ answers POST with status 503
    When the workflow is executed
    Then the workflow should fault
    And the service http://bank/ should have been asked 3 times
    And the workflow should take PT0S

  Scenario: All attempts together take no longer than the limit
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: duration, version: '1.0.0'}
    do:
      - attempt:
          try:
            - pay:
                call: http
                with: { method: post, endpoint: http://bank/ }
          catch:
            retry:
              delay: PT4S
              limit: { duration: { seconds: 10 } }
    """
    And the service http://bank/ answers POST with status 503
    When the workflow is executed
    Then the workflow should fault with error:
    """yaml
    status: 503
    """
    And the service http://bank/ should have been asked after:
    """yaml
    [ PT0S, PT4S, PT8S ]
    """

  Scenario: Each attempt takes no longer than its limit
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: attempt-duration, version: '1.0.0'}
    do:
      - attempt:
          try:
            - pay:
                call: http
                with: { method: post, endpoint: http://bank/ }
          catch:
            retry:
              delay: PT1S
              limit: { attempt: { count: 3, duration: PT5S } }
    """
    And the service http://bank/ answers POST as follows:
    """yaml
    after: PT1M
    """
    And the service http://bank/ answers POST as follows:
    """yaml
    after: PT2S
    body: paid
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    paid
    """
    And the workflow should take PT8S

  # The limit is a timeout of the try
  Scenario: An attempt that takes too long is an error of its own
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: attempt-timeout, version: '1.0.0'}
    do:
      - attempt:
          try:
            - sleep: { wait: PT1M }
          catch:
            retry:
              when: $error.status != 408
              limit: { attempt: { count: 3, duration: PT5S } }
            do:
              - late: { set: { type: '${ $error.type }', at: '${ $error.instance }' } }
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    type: https://serverlessworkflow.io/spec/1.0.0/errors/timeout
    at: /do/0/attempt
    """
    And the workflow should take PT5S

  Scenario: When says whether it is tried again
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: when, version: '1.0.0'}
    do:
      - attempt:
          try:
            - pay:
                call: http
                with: { method: post, endpoint: http://bank/ }
          catch:
            as: e
            retry:
              when: $e.status == 503
              delay: PT1S
            do:
              - later: { set: { status: '${ $e.status }' } }
    """
    And the service http://bank/ answers POST with status 503
    And the service http://bank/ answers POST with status 400
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    status: 400
    """
    And the service http://bank/ should have been asked 2 times

  Scenario: ExceptWhen says whether it is not tried again
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: except-when, version: '1.0.0'}
    do:
      - attempt:
          try:
            - pay:
                call: http
                with: { method: post, endpoint: http://bank/ }
          catch:
            retry:
              exceptWhen: $error.status == 400
              delay: PT1S
    """
    And the service http://bank/ answers POST with status 503
    And the service http://bank/ answers POST with status 400
    When the workflow is executed
    Then the workflow should fault with error:
    """yaml
    status: 400
    """
    And the service http://bank/ should have been asked 2 times

  Scenario: A policy that has a name, and the error the name that the catch gives it
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: named, version: '1.0.0'}
    use:
      retries:
        patient:
          when: $problem.status == 503
          delay: '${ $input.pause }'
          limit: { attempt: { count: 2 } }
    do:
      - attempt:
          try:
            - pay:
                call: http
                with: { method: post, endpoint: http://bank/ }
          catch:
            as: problem
            retry: patient
    """
    And given the workflow input is:
    """yaml
    pause: PT7S
    """
    And the service http://bank/ answers POST with status 503
    When the workflow is executed
    Then the workflow should fault
    And the service http://bank/ should have been asked after:
    """yaml
    [ PT0S, PT7S, PT14S ]
    """

  Scenario: An error that the filter lets through is not tried again
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: filtered, version: '1.0.0'}
    do:
      - attempt:
          try:
            - pay:
                call: http
                with: { method: post, endpoint: http://bank/ }
          catch:
            errors: { with: { status: 503 } }
            retry: { delay: PT1S }
    """
    And the service http://bank/ answers POST with status 503
    And the service http://bank/ answers POST with status 404
    When the workflow is executed
    Then the workflow should fault with error:
    """yaml
    status: 404
    """
    And the service http://bank/ should have been asked 2 times

  Scenario: Delays and limits by expressions
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: expressions, version: '1.0.0'}
    do:
      - attempt:
          try:
            - pay:
                call: http
                with: { method: post, endpoint: http://bank/ }
          catch:
            retry:
              delay: '${ .delay }'
              jitter: { from: '${ .jitter }', to: '${ .jitter }' }
              limit:
                attempt: { duration: '${ .attempt }' }
                duration: '${ .whole }'
    """
    And given the workflow input is:
    """yaml
    { delay: PT2S, jitter: { milliseconds: 500 }, attempt: PT5S, whole: PT16S }
    """
    And the service http://bank/ answers POST as follows:
    """yaml
    after: PT1M
    """
    When the workflow is executed
    Then the workflow should fault with error:
    """yaml
    { status: 408, instance: /do/0/attempt }
    """
    And the service http://bank/ should have been asked after:
    """yaml
    [ PT0S, PT7.5S, PT15S ]
    """
    And the workflow should take PT20S

  # It is the task's, and not one of its attempts'
  Scenario: A timeout of the whole is not tried again
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: whole, version: '1.0.0'}
    do:
      - attempt:
          try:
            - pay:
                call: http
                with: { method: post, endpoint: http://bank/ }
          catch:
            retry: { delay: PT2S }
          timeout: { after: PT5S }
    """
    And the service http://bank/ answers POST with status 503
    When the workflow is executed
    Then the workflow should fault with error:
    """yaml
    { status: 408, instance: /do/0/attempt }
    """
    And the service http://bank/ should have been asked 3 times
    And the workflow should take PT5S
