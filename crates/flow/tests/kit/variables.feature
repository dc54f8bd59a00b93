Feature: What expressions can speak of
  As somebody who writes workflows
  I want to know where a run and a task stand
  So that I can tell others

  Scenario: The task
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: task, version: '1.0.0'}
    do:
      - pause: { wait: PT2S }
      - note:
          input: { from: .inner }
          set: { task: '${ $task }', now: '${ now }' }
    """
    And given the workflow input is:
    """yaml
    inner: { n: 1 }
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    task:
      name: note
      reference: /do/1/note
      definition: { input: { from: .inner }, set: { task: '${ $task }', now: '${ now }' } }
      input: { inner: { n: 1 } }
      output: null
      startedAt:
        iso8601: '2026-01-02T03:04:07.678Z'
        epoch: { seconds: 1767323047, milliseconds: 1767323047678 }
    now: 1767323047.678
    """

  Scenario: The workflow
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: workflow, version: '1.2.3'}
    do:
      - pause: { wait: PT2S }
      - note: { set: '${ $workflow | .definition |= .document }' }
    """
    And given the workflow input is:
    """yaml
    n: 1
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    id: run-1
    definition: { dsl: '1.0.3', namespace: kit, name: workflow, version: '1.2.3' }
    input: { n: 1 }
    startedAt:
      iso8601: '2026-01-02T03:04:05.678Z'
      epoch: { seconds: 1767323045, milliseconds: 1767323045678 }
    """

  Scenario: What runs it
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: runtime, version: '1.0.0'}
    do:
      - note: { set: { name: '${ $runtime.name }', version: '${ $runtime.version | type }', more: '${ $runtime.metadata }' } }
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    { name: tulle, version: string, more: {} }
    """

  Scenario: The variables of a loop around an error that is handled
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: both, version: '1.0.0'}
    do:
      - each:
          for: { each: n, in: '[ 1 ]' }
          do:
            - attempt:
                try:
                  - fail: { raise: { error: { type: 'https://example.com/a', status: 400 } } }
                catch:
                  as: e
                  do:
                    - inner:
                        do:
                          - note: { set: { n: '${ $n }', index: '${ $index }', status: '${ $e.status }' } }
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    { n: 1, index: 0, status: 400 }
    """

  # What is inside goes before what is outside
  Scenario: A loop in a loop with the same name
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: same-name, version: '1.0.0'}
    do:
      - outer:
          for: { in: '[ "a", "b" ]' }
          do:
            - inner:
                for: { in: '[ $item + "1" ]' }
                do:
                  - note: { set: { last: '${ $item }' } }
                output: { as: '{ last, outer: $item }' }
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    { last: b1, outer: b }
    """
