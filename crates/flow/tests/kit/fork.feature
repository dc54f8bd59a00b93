Feature: Branches
  As somebody who writes workflows
  I want things done at once that do not depend on each other
  So that the whole takes as long as the longest

  # In the order in which they stand, however long each takes
  Scenario: All branches are waited for
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: all, version: '1.0.0'}
    do:
      - both:
          fork:
            branches:
              - slow:
                  do:
                    - sleep: { wait: PT5S }
                    - answer: { set: { from: slow, n: '${ .n }' } }
              - quick:
                  set: { from: quick, n: '${ .n + 1 }' }
    """
    And given the workflow input is:
    """yaml
    n: 1
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    - { from: slow, n: 1 }
    - { from: quick, n: 2 }
    """
    And the workflow should take PT5S

  Scenario: Branches that wait do so at once
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: at-once, version: '1.0.0'}
    do:
      - three:
          fork:
            branches:
              - a: { wait: PT3S }
              - b: { wait: PT4S }
              - c: { wait: PT2S }
    """
    When the workflow is executed
    Then the workflow should complete
    And the workflow should take PT4S

  Scenario: The first of branches that compete is what counts
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: compete, version: '1.0.0'}
    do:
      - race:
          fork:
            compete: true
            branches:
              - near:
                  call: http
                  with: { method: get, endpoint: 'http://near/' }
              - far:
                  call: http
                  with: { method: get, endpoint: 'http://far/' }
    """
    And the service http://near/ answers GET as follows:
    """yaml
    body: { from: near }
    after: PT1S
    """
    And the service http://far/ answers GET as follows:
    """yaml
    body: { from: far }
    after: PT9S
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    from: near
    """
    And far should cancel
    And the workflow should take PT1S

  Scenario: A branch that fails ends the others
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: fails, version: '1.0.0'}
    do:
      - both:
          fork:
            branches:
              - good:
                  do:
                    - sleep: { wait: PT9S }
                    - never: { set: { reached: true } }
              - bad:
                  do:
                    - sleep2: { wait: PT2S }
                    - fail:
                        raise: { error: { type: 'https://example.com/errors/bad', status: 500 } }
    """
    When the workflow is executed
    Then the workflow should fault with error:
    """yaml
    type: https://example.com/errors/bad
    instance: /do/0/both/fork/branches/1/bad/do/1/fail
    """
    And good should cancel
    And the workflow should take PT2S

  Scenario: Branches have the variables that are around them
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: variables, version: '1.0.0'}
    do:
      - each:
          for: { each: n, in: '[2, 3]' }
          do:
            - both:
                fork:
                  branches:
                    - double: { set: '${ $n * 2 }' }
                    - square: { set: '${ $n * $n }' }
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    [ 6, 9 ]
    """

  Scenario: A fork without branches makes an empty list
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: none, version: '1.0.0'}
    do:
      - none: { fork: { branches: [] } }
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    []
    """

  Scenario: A branch that fails first fails for all that compete
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: compete-fails, version: '1.0.0'}
    do:
      - race:
          fork:
            compete: true
            branches:
              - slow: { wait: PT5S }
              - bad: { raise: { error: { type: 'https://example.com/errors/bad', status: 500 } } }
    """
    When the workflow is executed
    Then the workflow should fault with error:
    """yaml
    instance: /do/0/race/fork/branches/1/bad
    """
    And slow should cancel
    And the workflow should take PT0S

  Scenario: A branch may end the workflow
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: branch-ends, version: '1.0.0'}
    do:
      - both:
          fork:
            branches:
              - slow: { wait: PT5S }
              - stop: { set: { stopped: true }, then: end }
      - never: { set: { stopped: false } }
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    stopped: true
    """
    And slow should cancel

  Scenario: Branches export into one context
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: branch-exports, version: '1.0.0'}
    do:
      - both:
          fork:
            branches:
              - later:
                  do:
                    - sleep: { wait: PT1S }
                    - b: { set: { b: 2 }, export: { as: $context + . } }
              - now: { set: { a: 1 }, export: { as: $context + . } }
      - see: { set: '${ $context }' }
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    { a: 1, b: 2 }
    """
