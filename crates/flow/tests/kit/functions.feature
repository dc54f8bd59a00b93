Feature: Functions of a document
  As somebody who writes workflows
  I want to write once what is done in several places
  So that it is the same everywhere

  Scenario: A function is called with arguments
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: arguments, version: '1.0.0'}
    use:
      functions:
        price:
          call: http
          with: { method: get, endpoint: 'http://prices/{item}', query: { currency: '${ .currency }' } }
          output: { as: .amount }
    do:
      - ask:
          call: price
          with: { item: '${ .name }', currency: EUR }
    """
    And given the workflow input is:
    """yaml
    name: pen
    """
    And the service http://prices/pen?currency=EUR answers GET:
    """yaml
    amount: 3
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    3
    """

  Scenario: Without arguments it is given the task's input
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: input, version: '1.0.0'}
    use:
      functions:
        double: { set: { n: '${ .n * 2 }' } }
    do:
      - once: { call: double }
      - twice: { call: double, output: { as: '{ result: .n }' } }
    """
    And given the workflow input is:
    """yaml
    n: 3
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    result: 12
    """

  Scenario: Functions call each other
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: chain, version: '1.0.0'}
    use:
      functions:
        outer:
          do:
            - first: { call: inner, with: { n: '${ .n + 1 }' } }
            - second: { set: { n: '${ .n * 10 }' } }
        inner: { set: { n: '${ .n + 100 }' } }
    do:
      - run: { call: outer }
    """
    And given the workflow input is:
    """yaml
    n: 1
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    n: 1020
    """

  # Where it is: in the document, and not where it is called
  Scenario: An error within a function
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: error, version: '1.0.0'}
    use:
      functions:
        pay: { call: http, with: { method: post, endpoint: 'http://bank/' } }
    do:
      - attempt:
          try:
            - run: { call: pay }
          catch:
            do:
              - caught: { set: { at: '${ $error.instance }', status: '${ $error.status }' } }
    """
    And the service http://bank/ answers POST with status 500
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    { at: /use/functions/pay, status: 500 }
    """
