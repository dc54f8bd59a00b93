Feature: What tasks are given, and what becomes of what they make
  As somebody who writes workflows
  I want to say which part of the data a task sees and leaves
  So that each is simple

  Scenario: The workflow's input is transformed
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: workflow-input, version: '1.0.0'}
    input: { from: '.order + { at: $workflow.startedAt.epoch.seconds }' }
    do:
      - keep: { set: { is: '${ . }', was: '${ $workflow.input }' } }
    """
    And given the workflow input is:
    """yaml
    order: { id: 1 }
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    is: { id: 1, at: 1767323045 }
    was: { order: { id: 1 } }
    """

  Scenario: From and as may be objects with expressions
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: objects, version: '1.0.0'}
    input: { from: { number: '${ .id }', kind: order } }
    output: { as: { answer: '${ . }', done: true } }
    do:
      - one:
          input: { from: { n: '${ .number }' } }
          set: '${ .n + 1 }'
          output: { as: { sum: '${ . }' } }
    """
    And given the workflow input is:
    """yaml
    id: 4
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    { answer: { sum: 5 }, done: true }
    """

  Scenario: A task's output is transformed, and what it was is known
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: task-output, version: '1.0.0'}
    do:
      - fetch:
          input: { from: .who }
          set: { name: '${ . }', size: 3 }
          output: { as: '{ name, raw: $task.output, input: $input, before: $task.input }' }
    """
    And given the workflow input is:
    """yaml
    who: ada
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    name: ada
    raw: { name: ada, size: 3 }
    input: ada
    before: { who: ada }
    """

  # The context begins as an empty object
  Scenario: What is exported is the context of later tasks
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: export, version: '1.0.0'}
    do:
      - one:
          set: { id: 1, secretly: x }
          output: { as: '{ id }' }
          export: { as: '$context + { first: .id, whole: $output, input: $input }' }
      - two:
          set: { id: '${ $context.first + 1 }' }
          export: { as: '$context + { second: .id }' }
      - three:
          do:
            - inner:
                if: $context.second == 2
                input: { from: $context }
                set: '${ . }'
    output: { as: '{ last: ., context: $context }' }
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    last: { first: 1, whole: { id: 1 }, input: {}, second: 2 }
    context: { first: 1, whole: { id: 1 }, input: {}, second: 2 }
    """

  Scenario: An export replaces the context
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: export-replaces, version: '1.0.0'}
    do:
      - one: { set: { a: 1 }, export: { as: . } }
      - two: { set: { b: 2 }, export: { as: { only: '${ .b }' } } }
      - three: { set: '${ $context }' }
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    only: 2
    """

  Scenario: An expression that fails is an error of its task
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: fails, version: '1.0.0'}
    do:
      - one:
          set: { a: 1 }
          output: { as: .a.b.c }
    """
    When the workflow is executed
    Then the workflow should fault with error:
    """yaml
    type: https://serverlessworkflow.io/spec/1.0.0/errors/expression
    status: 400
    title: Expression Error
    instance: /do/0/one
    """

  Scenario: An expression that never ends is an error of its task
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: endless, version: '1.0.0'}
    do:
      - attempt:
          try:
            - one: { set: '${ [ range(1e12) ] }' }
          catch:
            do:
              - caught: { set: { type: '${ $error.type }' } }
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    type: https://serverlessworkflow.io/spec/1.0.0/errors/expression
    """

  Scenario: An expression that fails in the workflow's output
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: fails-at-last, version: '1.0.0'}
    do:
      - one: { set: { a: 1 } }
    output: { as: .a.b }
    """
    When the workflow is executed
    Then the workflow should fault with error:
    """yaml
    type: https://serverlessworkflow.io/spec/1.0.0/errors/expression
    instance: /
    """
    And one should complete

  Scenario: Values of any kind go from task to task
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: any, version: '1.0.0'}
    do:
      - number: { set: '${ 1.5 }' }
      - list: { set: '${ [ . ] }' }
      - text: { set: '${ "n=\(.[0])" }' }
      - same: { do: [], output: { as: 'null' } }
      - last: { set: { was: '${ . }' } }
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    was: null
    """
    And text should complete with output:
    """yaml
    n=1.5
    """
