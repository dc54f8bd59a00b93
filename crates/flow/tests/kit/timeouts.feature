Feature: What takes too long
  As somebody who writes workflows
  I want to say how long something may take
  So that nobody waits in vain

  Scenario: A task that takes too long
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: task, version: '1.0.0'}
    do:
      - fetch:
          call: http
          with: { method: get, endpoint: http://slow/ }
          timeout: { after: { seconds: 5 } }
    """
    And the service http://slow/ answers GET as follows:
    """yaml
    after: PT1M
    """
    When the workflow is executed
    Then the workflow should fault with error:
    """yaml
    type: https://serverlessworkflow.io/spec/1.0.0/errors/timeout
    status: 408
    title: Timeout Error
    detail: it was not done within its timeout of 5 s
    instance: /do/0/fetch
    """
    And the workflow should take PT5S

  Scenario: A task that is done in time
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: in-time, version: '1.0.0'}
    do:
      - fetch:
          call: http
          with: { method: get, endpoint: http://slow/ }
          timeout: { after: PT5S }
      - pause: { wait: PT1M }
    """
    And the service http://slow/ answers GET as follows:
    """yaml
    after: PT4S
    body: done
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    done
    """
    And the workflow should take PT1M4S

  Scenario: A list of tasks that takes too long, and is caught
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: caught, version: '1.0.0'}
    do:
      - attempt:
          try:
            - steps:
                do:
                  - one: { wait: PT3S }
                  - two: { wait: PT3S }
                timeout: { after: PT5S }
          catch:
            errors: { with: { type: 'https://serverlessworkflow.io/spec/1.0.0/errors/timeout' } }
            do:
              - late: { set: { at: '${ $error.instance }' } }
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    at: /do/0/attempt/try/0/steps
    """
    And two should cancel
    And the workflow should take PT5S

  Scenario: A workflow that takes too long
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: workflow, version: '1.0.0'}
    timeout: { after: { minutes: 1 } }
    do:
      - attempt:
          try:
            - pause: { wait: { seconds: 90 } }
          catch:
            do:
              - never: { set: { caught: true } }
    """
    When the workflow is executed
    Then the workflow should fault with error:
    """yaml
    type: https://serverlessworkflow.io/spec/1.0.0/errors/timeout
    status: 408
    detail: it was not done within its timeout of 60 s
    instance: /
    """
    And the workflow should take PT1M
    And pause should cancel

  Scenario: Timeouts that have a name
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: named, version: '1.0.0'}
    use:
      timeouts:
        short: { after: '${ $workflow.input.short }' }
        long: { after: PT1H }
    timeout: long
    do:
      - pause:
          wait: PT10S
          timeout: short
    """
    And given the workflow input is:
    """yaml
    short: PT2S
    """
    When the workflow is executed
    Then the workflow should fault with error:
    """yaml
    { status: 408, instance: /do/0/pause }
    """
    And the workflow should take PT2S

  Scenario: A timeout by an expression of the task's input
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: expression, version: '1.0.0'}
    do:
      - pause:
          input: { from: .settings }
          wait: PT10S
          timeout: { after: '${ .most }' }
    """
    And given the workflow input is:
    """yaml
    settings: { most: PT3S }
    """
    When the workflow is executed
    Then the workflow should fault with error:
    """yaml
    status: 408
    detail: it was not done within its timeout
    """
    And the workflow should take PT3S
