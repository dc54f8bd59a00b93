Feature: Errors that are caught
  As somebody who writes workflows
  I want to say what happens where something fails
  So that a workflow ends well all the same

  Scenario: All errors are caught where nothing else is said
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: all, version: '1.0.0'}
    do:
      - attempt:
          try:
            - pay:
                call: http
                with: { method: post, endpoint: http://bank/ }
          catch:
            do:
              - later:
                  set: { status: '${ $error.status }', was: '${ . }' }
    """
    And given the workflow input is:
    """yaml
    amount: 3
    """
    And the service http://bank/ answers POST with status 500
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    { status: 500, was: { amount: 3 } }
    """
    And pay should fault
    And attempt should complete
    And later should run last

  Scenario: What does not fail is not caught
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: fine, version: '1.0.0'}
    do:
      - attempt:
          try:
            - one: { set: { n: 1 } }
            - two: { set: { n: '${ .n + 1 }' } }
          catch:
            do:
              - never: { set: { n: 0 } }
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    n: 2
    """

  # Nothing is done about it: it goes on with the input of the try
  Scenario: An error that is caught and nothing else
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: ignored, version: '1.0.0'}
    do:
      - attempt:
          try:
            - change: { set: { n: 5 } }
            - fail: { raise: { error: { type: 'https://example.com/errors/a', status: 400 } } }
          catch: {}
      - after:
          set: '${ . + { after: true } }'
    """
    And given the workflow input is:
    """yaml
    n: 1
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    { n: 1, after: true }
    """

  Scenario: A filter by the type as the reference writes it
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: type, version: '1.0.0'}
    do:
      - attempt:
          try:
            - pay:
                call: http
                with: { method: post, endpoint: http://bank/ }
          catch:
            errors: { with: { type: https://serverlessworkflow.io/spec/1.0.0/errors/communication } }
            as: problem
            do:
              - later: { set: '${ $problem }' }
    """
    And the service http://bank/ answers POST with status 504
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    type: https://serverlessworkflow.io/spec/1.0.0/errors/communication
    status: 504
    title: Gateway Timeout
    detail: it was answered with 504
    instance: /do/0/attempt/try/0/pay
    """

  # What is raised has the name of the reference all the same
  Scenario: A filter by the type as the conformance kit writes it
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: alias, version: '1.0.0'}
    do:
      - attempt:
          try:
            - read: { set: '${ .n.x }' }
          catch:
            errors: { with: { type: https://serverlessworkflow.io/dsl/errors/types/expression, status: 400 } }
            do:
              - later: { set: { type: '${ $error.type }' } }
    """
    And given the workflow input is:
    """yaml
    n: 1
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    type: https://serverlessworkflow.io/spec/1.0.0/errors/expression
    """

  Scenario: A filter by status lets others through
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: status, version: '1.0.0'}
    do:
      - outer:
          try:
            - inner:
                try:
                  - pay:
                      call: http
                      with: { method: post, endpoint: http://bank/ }
                catch:
                  errors: { with: { status: 404 } }
                  do:
                    - never: { set: { by: inner } }
          catch:
            errors: { with: { status: 503 } }
            do:
              - caught: { set: { by: outer, at: '${ $error.instance }' } }
    """
    And the service http://bank/ answers POST with status 503
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    { by: outer, at: /do/0/outer/try/0/inner/try/0/pay }
    """
    And inner should fault

  Scenario: Filters by title, detail and instance
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: words, version: '1.0.0'}
    do:
      - one:
          try:
            - fail: { raise: { error: { type: 'https://example.com/a', status: 409, title: Taken, detail: by Bob } } }
          catch:
            errors: { with: { title: Taken, detail: by Bob, instance: /do/0/one/try/0/fail } }
            do:
              - caught: { set: '${ . + { one: true } }' }
      - two:
          try:
            - fail: { raise: { error: { type: 'https://example.com/a', status: 409, title: Taken, detail: by Ada } } }
          catch:
            errors: { with: { details: by Bob } }
            do:
              - never: { set: '${ . + { two: true } }' }
    """
    When the workflow is executed
    Then the workflow should fault with error:
    """yaml
    { title: Taken, detail: by Ada, instance: /do/1/two/try/0/fail }
    """
    And one should complete with output:
    """yaml
    one: true
    """

  Scenario: When says which errors are caught
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: when, version: '1.0.0'}
    do:
      - each:
          for: { each: status, in: '[409, 410]' }
          do:
            - attempt:
                try:
                  - fail: { raise: { error: { type: 'https://example.com/a', status: 400, title: '${ "s\($status)" }' } } }
                catch:
                  as: e
                  when: $e.title == "s409"
                  do:
                    - caught: { set: { caught: '${ $e.title }' } }
    """
    When the workflow is executed
    Then the workflow should fault with error:
    """yaml
    title: s410
    """
    And caught should complete with output:
    """yaml
    caught: s409
    """

  Scenario: ExceptWhen says which errors are not caught
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: except-when, version: '1.0.0'}
    do:
      - attempt:
          try:
            - fail: { raise: { error: { type: 'https://example.com/a', status: 418 } } }
          catch:
            exceptWhen: $error.status == 418
            do:
              - never: { set: {a: 1} }
    """
    When the workflow is executed
    Then the workflow should fault with error:
    """yaml
    { status: 418, instance: /do/0/attempt/try/0/fail }
    """

  Scenario: An error while one is handled
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: handler-fails, version: '1.0.0'}
    do:
      - attempt:
          try:
            - fail: { raise: { error: { type: 'https://example.com/first', status: 400 } } }
          catch:
            do:
              - again: { raise: { error: { type: 'https://example.com/second', status: 500, detail: '${ "after \($error.type)" }' } } }
    """
    When the workflow is executed
    Then the workflow should fault with error:
    """yaml
    type: https://example.com/second
    detail: after https://example.com/first
    instance: /do/0/attempt/catch/do/0/again
    """

  Scenario: End while an error is handled
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: handler-ends, version: '1.0.0'}
    do:
      - attempt:
          try:
            - fail: { raise: { error: { type: 'https://example.com/first', status: 400 } } }
          catch:
            do:
              - stop: { set: { stopped: true }, then: end }
      - never: { set: { stopped: false } }
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    stopped: true
    """

  Scenario: Each part of a filter has to match
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: parts, version: '1.0.0'}
    do:
      - outer:
          try:
            - title:
                try:
                  - instance:
                      try:
                        - type:
                            try:
                              - detail:
                                  try:
                                    - fail: { raise: { error: { type: 'https://example.com/a', status: 409, title: Taken, detail: by Bob } } }
                                  catch: { errors: { with: { status: 409, detail: by Ada } } }
                            catch: { errors: { with: { status: 409, type: 'https://example.com/b' } } }
                      catch: { errors: { with: { status: 409, instance: /do/0/fail } } }
                catch: { errors: { with: { status: 409, title: Free } } }
          catch:
            errors: { with: { status: 409, title: Taken, detail: by Bob, type: 'https://example.com/a' } }
            do:
              - caught: { set: { caught: true } }
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    caught: true
    """
    And detail should fault
    And type should fault
    And instance should fault
    And title should fault
