Feature: Errors of one's own
  As somebody who writes workflows
  I want to say that something is wrong
  So that whoever started the workflow knows

  Scenario: An error that stands where it is raised
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: inline, version: '1.0.0'}
    do:
      - check:
          do:
            - refuse:
                raise:
                  error:
                    type: https://example.com/errors/sold-out
                    status: 409
                    title: Sold out
                    detail: '${ "there are no more \(.item)s" }'
    """
    And given the workflow input is:
    """yaml
    item: pen
    """
    When the workflow is executed
    Then the workflow should fault with error:
    """yaml
    type: https://example.com/errors/sold-out
    status: 409
    title: Sold out
    detail: there are no more pens
    instance: /do/0/check/do/0/refuse
    """
    And refuse should run last
    And check should fault

  Scenario: An error that has a name
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: named, version: '1.0.0'}
    use:
      errors:
        soldOut: { type: 'https://example.com/errors/sold-out', status: 409, title: '${ .item + " is sold out" }' }
    do:
      - refuse: { raise: { error: soldOut } }
    """
    And given the workflow input is:
    """yaml
    item: pen
    """
    When the workflow is executed
    Then the workflow should fault with error:
    """yaml
    { type: 'https://example.com/errors/sold-out', status: 409, title: pen is sold out, instance: /do/0/refuse }
    """

  Scenario: An error with an instance of its own
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: instance, version: '1.0.0'}
    do:
      - refuse: { raise: { error: { type: 'https://example.com/errors/x', status: 400, instance: /do/7/elsewhere } } }
    """
    When the workflow is executed
    Then the workflow should fault with error:
    """yaml
    instance: /do/7/elsewhere
    """

  Scenario: A type by an expression
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: type, version: '1.0.0'}
    do:
      - refuse: { raise: { error: { type: '${ "https://example.com/errors/\(.kind)" }', status: 400 } } }
    """
    And given the workflow input is:
    """yaml
    kind: a
    """
    When the workflow is executed
    Then the workflow should fault with error:
    """yaml
    type: https://example.com/errors/a
    """

  Scenario: An error that turns out to be none
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: none, version: '1.0.0'}
    do:
      - refuse: { raise: { error: { type: '${ .kind }', status: 400 } } }
    """
    When the workflow is executed
    Then the workflow should fault with error:
    """yaml
    type: https://serverlessworkflow.io/spec/1.0.0/errors/expression
    status: 400
    detail: the error has no type
    instance: /do/0/refuse
    """

  Scenario: A workflow that is cancelled
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: cancelled, version: '1.0.0'}
    do:
      - sleep: { wait: PT1M }
      - never: { set: { n: 1 } }
    """
    When the workflow is executed and cancelled after PT5S
    Then the workflow should cancel
    And sleep should cancel
    And the workflow should take PT5S
