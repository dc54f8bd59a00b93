Feature: Choices
  As somebody who writes workflows
  I want tasks to run, or not, as the data say
  So that one workflow does for all cases

  Scenario: The first case that matches is chosen
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: first-match, version: '1.0.0'}
    do:
      - choose:
          switch:
            - small: { when: .size < 10, then: letter }
            - medium: { when: .size < 100, then: parcel }
            - other: { then: pallet }
      - letter:
          set: { by: letter }
          then: end
      - parcel:
          set: { by: parcel }
          then: end
      - pallet:
          set: { by: pallet }
    """
    And given the workflow input is:
    """yaml
    size: 5
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    by: letter
    """
    And choose should complete with output:
    """yaml
    size: 5
    """
    And letter should run last

  # Wherever it stands in the list
  Scenario: The case without a condition is for the rest
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: default-first, version: '1.0.0'}
    do:
      - choose:
          switch:
            - other: { then: pallet }
            - small: { when: '${ .size < 10 }', then: letter }
      - letter:
          set: { by: letter }
          then: end
      - pallet:
          set: { by: pallet }
    """
    And given the workflow input is:
    """yaml
    size: 5
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    by: letter
    """

  Scenario: No case that matches goes on as the task says
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: no-match, version: '1.0.0'}
    do:
      - choose:
          switch:
            - small: { when: .size < 10, then: end }
          then: last
      - middle:
          set: { by: middle }
      - last:
          set: { by: '${ .size }' }
    """
    And given the workflow input is:
    """yaml
    size: 50
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    by: 50
    """
    And last should run after choose

  Scenario: A case may end its list or go on
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: case-directives, version: '1.0.0'}
    do:
      - block:
          do:
            - choose:
                switch:
                  - leave: { when: .leave, then: exit }
                  - stay: { then: continue }
            - inside:
                set: '${ . + { inside: true } }'
      - after:
          set: '${ . + { after: true } }'
    """
    And given the workflow input is:
    """yaml
    leave: yes please
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    { leave: yes please, after: true }
    """

  # As jq has it: false and null say no, all else says yes
  Scenario: A task whose condition does not hold is skipped
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: if, version: '1.0.0'}
    do:
      - gift:
          if: .gift
          set: '${ . + { wrapped: true } }'
      - zero:
          if: ${ 0 }
          set: '${ . + { zero: true } }'
      - express:
          if: .express == true
          set: '${ . + { express: "done" } }'
    """
    And given the workflow input is:
    """yaml
    express: true
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    { express: done, zero: true }
    """
    And gift should be skipped
    And zero should run first

  # Its raw input becomes its output; nothing else of it is looked at
  Scenario: A skipped task does nothing at all
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: skipped, version: '1.0.0'}
    do:
      - never:
          if: 'false'
          input:
            schema: { document: { type: string } }
            from: .nowhere
          set: { a: 1 }
          output: { as: '{ made: . }' }
          export: { as: '{ exported: true }' }
          then: end
      - after:
          set: { was: '${ . }', context: '${ $context }' }
    """
    And given the workflow input is:
    """yaml
    n: 3
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    { was: { n: 3 }, context: {} }
    """
