Feature: Where it goes on
  As somebody who writes workflows
  I want to say which task is next
  So that the order is mine

  Scenario: Continue is what happens anyway
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: continue, version: '1.0.0'}
    do:
      - one:
          set: '${ . + { one: true } }'
          then: continue
      - two:
          set: '${ . + { two: true } }'
          then: continue
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    { one: true, two: true }
    """

  Scenario: Exit ends the list that the task stands in
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: exit, version: '1.0.0'}
    do:
      - outer:
          do:
            - inner:
                do:
                  - leave:
                      set: { left: inner }
                      then: exit
                  - never:
                      set: { left: never }
            - still:
                set: '${ . + { still: true } }'
      - after:
          set: '${ . + { after: 1 } }'
          then: exit
      - beyond:
          set: { beyond: true }
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    { left: inner, still: true, after: 1 }
    """
    And after should run last

  Scenario: End ends the workflow from wherever it is
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: end, version: '1.0.0'}
    do:
      - outer:
          do:
            - inner:
                do:
                  - stop:
                      set: { stopped: true }
                      then: end
            - never:
                set: { stopped: false }
          output: { as: '{ outer: . }' }
      - beyond:
          set: { beyond: true }
    output:
      as: '. + { whole: true }'
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    { stopped: true, whole: true }
    """
    And stop should run last
    And outer should cancel

  Scenario: A name leads forward
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: forward, version: '1.0.0'}
    do:
      - one:
          set: { path: [ one ] }
          then: three
      - two:
          set: '${ .path += ["two"] }'
      - three:
          set: '${ .path += ["three"] }'
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    path: [ one, three ]
    """

  Scenario: A name leads back
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: back, version: '1.0.0'}
    do:
      - add:
          set: { n: '${ .n + 1 }' }
      - again:
          switch:
            - more: { when: .n < 4, then: add }
      - done:
          set: { counted: '${ .n }' }
    """
    And given the workflow input is:
    """yaml
    n: 0
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    counted: 4
    """

  Scenario: A workflow that leads in a circle is stopped in the end
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: circle, version: '1.0.0'}
    do:
      - around:
          set: { n: 1 }
          then: around
    """
    When the workflow is executed
    Then the workflow should fault with error:
    """yaml
    type: https://serverlessworkflow.io/spec/1.0.0/errors/runtime
    status: 500
    instance: /do/0/around
    detail: the run has begun 500 tasks…
    """

  Scenario: A name within a list of a loop
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: in-a-loop, version: '1.0.0'}
    do:
      - each:
          for: { in: .numbers }
          do:
            - pass:
                switch:
                  - even: { when: $item % 2 == 0, then: keep }
                  - odd: { then: exit }
            - never:
                set: { kept: [ never ] }
            - keep:
                set: '${ { kept: (.kept + [ $item ]), numbers } }'
    """
    And given the workflow input is:
    """yaml
    numbers: [ 1, 2, 3, 4 ]
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    kept: [ 2, 4 ]
    numbers: [ 1, 2, 3, 4 ]
    """
