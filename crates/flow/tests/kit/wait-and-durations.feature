Feature: Waiting, and how long
  As somebody who writes workflows
  I want to say a time as it suits me
  So that it can be read

  Scenario: A wait passes its input on
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: wait, version: '1.0.0'}
    do:
      - pause: { wait: { seconds: 30 } }
    """
    And given the workflow input is:
    """yaml
    n: 1
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    n: 1
    """
    And the workflow should take PT30S

  Scenario: Fields of a duration add up
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: fields, version: '1.0.0'}
    do:
      - pause: { wait: { days: 1, hours: 2, minutes: 3, seconds: 4, milliseconds: 5 } }
    """
    When the workflow is executed
    Then the workflow should complete
    And the workflow should take P1DT2H3M4.005S

  Scenario: Durations of ISO 8601
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: iso, version: '1.0.0'}
    do:
      - weeks: { wait: P1W }
      - days: { wait: P2D }
      - hours: { wait: PT1H30M }
      - fraction: { wait: PT0.25S }
    """
    When the workflow is executed
    Then the workflow should complete
    And the workflow should take P9DT1H30M0.25S

  Scenario: A duration by an expression
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: expression, version: '1.0.0'}
    do:
      - text: { wait: '${ .text }' }
      - object: { wait: '${ { seconds: .seconds } }' }
    """
    And given the workflow input is:
    """yaml
    { text: PT2M, seconds: 5 }
    """
    When the workflow is executed
    Then the workflow should complete
    And the workflow should take PT2M5S

  Scenario: An expression that gives no duration
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: no-duration, version: '1.0.0'}
    do:
      - pause: { wait: '${ .text }' }
    """
    And given the workflow input is:
    """yaml
    text: a while
    """
    When the workflow is executed
    Then the workflow should fault with error:
    """yaml
    type: https://serverlessworkflow.io/spec/1.0.0/errors/expression
    status: 400
    instance: /do/0/pause
    """

  Scenario: A wait of nothing
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: nothing, version: '1.0.0'}
    do:
      - pause: { wait: PT0S }
    """
    When the workflow is executed
    Then the workflow should complete
    And the workflow should take PT0S
