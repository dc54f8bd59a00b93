Feature: Schemas
  As somebody who writes workflows
  I want to say what data have to be like
  So that what is wrong is found where it comes from

  Scenario: The workflow's input is as it has to be
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: good, version: '1.0.0'}
    input:
      schema:
        format: json
        document: { type: object, required: [ id ], properties: { id: { type: string, pattern: '^[a-z]+$' } } }
      from: .id
    do:
      - keep: { set: { id: '${ . }' } }
    """
    And given the workflow input is:
    """yaml
    id: abc
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    id: abc
    """

  # What came, before it is transformed
  Scenario: The workflow's input is not as it has to be
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: bad, version: '1.0.0'}
    input:
      schema:
        format: json:2020-12
        document: { type: object, properties: { order: { required: [ id ], properties: { lines: { items: { type: integer } } } } } }
      from: '{}'
    do:
      - never: { set: { reached: true } }
    """
    And given the workflow input is:
    """yaml
    order: { lines: [ 1, two ] }
    """
    When the workflow is executed
    Then the workflow should fault with error:
    """yaml
    type: https://serverlessworkflow.io/spec/1.0.0/errors/validation
    status: 400
    title: Validation Error
    instance: /
    detail: 'input: "id" is a required property; /order/lines/1 is not of type "integer"'
    """

  Scenario: A task's input is not as it has to be
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: task-input, version: '1.0.0'}
    do:
      - check:
          input:
            schema: { document: { properties: { n: { type: integer } } } }
            from: '{ n: 1 }'
          set: '${ . }'
    """
    And given the workflow input is:
    """yaml
    n: one
    """
    When the workflow is executed
    Then the workflow should fault with error:
    """yaml
    type: https://serverlessworkflow.io/spec/1.0.0/errors/validation
    instance: /do/0/check
    detail: 'input: /n is not of type "integer"'
    """

  # After it is transformed
  Scenario: A task's output is not as it has to be
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: task-output, version: '1.0.0'}
    do:
      - attempt:
          try:
            - check:
                set: { n: 5 }
                output:
                  as: .n
                  schema: { document: { maximum: 3 } }
          catch:
            errors: { with: { type: 'https://serverlessworkflow.io/spec/1.0.0/errors/validation' } }
            do:
              - caught: { set: { detail: '${ $error.detail }' } }
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    detail: 'output: the value is greater than the maximum of 3'
    """

  # And the task's output is not what is looked at
  Scenario: The context is not as it has to be
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: export, version: '1.0.0'}
    do:
      - good:
          set: { n: 5 }
          export: { as: '{ total: .n }', schema: { document: { required: [ total ] } } }
      - bad:
          set: { total: 5 }
          export: { as: '{ sum: .total }', schema: { document: { required: [ total ] } } }
    """
    When the workflow is executed
    Then the workflow should fault with error:
    """yaml
    instance: /do/1/bad
    detail: 'export: "total" is a required property'
    """
    And good should complete

  Scenario: The workflow's output is not as it has to be
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: workflow-output, version: '1.0.0'}
    output: { as: .n, schema: { document: { type: string } } }
    do:
      - one: { set: { n: 1 } }
    """
    When the workflow is executed
    Then the workflow should fault with error:
    """yaml
    type: https://serverlessworkflow.io/spec/1.0.0/errors/validation
    instance: /
    detail: 'output: the value is not of type "string"'
    """

  Scenario: A schema that refers to what is elsewhere
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: elsewhere, version: '1.0.0'}
    input: { schema: { document: { $ref: 'https://example.com/schema.json' } } }
    do:
      - never: { set: { n: 1 } }
    """
    When the workflow is executed
    Then the workflow should fault with error:
    """yaml
    type: https://serverlessworkflow.io/spec/1.0.0/errors/configuration
    detail: 'input: the schema cannot be used…'
    """

  Scenario: A schema that a service has
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: fetched, version: '1.0.0'}
    do:
      - check:
          input: { schema: { resource: { endpoint: 'http://schemas/{kind}' } } }
          set: { fine: true }
    """
    And given the workflow input is:
    """yaml
    { kind: order, id: 7 }
    """
    And the service http://schemas/order answers GET:
    """yaml
    properties: { id: { type: string } }
    """
    When the workflow is executed
    Then the workflow should fault with error:
    """yaml
    type: https://serverlessworkflow.io/spec/1.0.0/errors/validation
    detail: 'input: /id is not of type "string"'
    instance: /do/0/check
    """
