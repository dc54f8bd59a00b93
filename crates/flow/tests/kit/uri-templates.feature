Feature: URI templates
  As somebody who writes workflows
  I want fields of the data in the address of a service
  So that I need no expression for that

  Scenario: Fields of texts, numbers and booleans
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: fields, version: '1.0.0'}
    do:
      - fetch:
          call: http
          with: { method: get, endpoint: 'http://stock/{shelf}/{place}?sold={sold}' }
    """
    And given the workflow input is:
    """yaml
    { shelf: top, place: 12, sold: false }
    """
    And the service http://stock/top/12?sold=false answers GET:
    """yaml
    here
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    here
    """

  Scenario: What stands in is percent-encoded
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: encoded, version: '1.0.0'}
    do:
      - fetch:
          call: http
          with: { method: get, endpoint: { uri: 'http://stock/items/{name}' } }
    """
    And given the workflow input is:
    """yaml
    name: a/b?c ü#
    """
    And the service http://stock/items/a%2Fb%3Fc%20%C3%BC%23 answers GET:
    """yaml
    here
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    here
    """

  Scenario: A field that is missing or null leaves nothing
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: missing, version: '1.0.0'}
    do:
      - fetch:
          call: http
          with: { method: get, endpoint: 'http://stock/items?a={missing}&b={empty}' }
    """
    And given the workflow input is:
    """yaml
    empty: null
    """
    And the service http://stock/items?a=&b= answers GET:
    """yaml
    here
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    here
    """

  # Not a path into the data
  Scenario: A name with a point is a field with a point
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: verbatim, version: '1.0.0'}
    do:
      - fetch:
          call: http
          with: { method: get, endpoint: 'http://stock/{pet.id}' }
    """
    And given the workflow input is:
    """yaml
    pet: { id: 1 }
    pet.id: 2
    """
    And the service http://stock/2 answers GET:
    """yaml
    here
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    here
    """

  Scenario: A field that is a list or an object is an error
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: object, version: '1.0.0'}
    do:
      - fetch:
          call: http
          with: { method: get, endpoint: 'http://stock/{pet}' }
    """
    And given the workflow input is:
    """yaml
    pet: { id: 1 }
    """
    When the workflow is executed
    Then the workflow should fault with error:
    """yaml
    type: https://serverlessworkflow.io/spec/1.0.0/errors/expression
    status: 400
    instance: /do/0/fetch
    detail: 'with.endpoint: `{pet}` is…'
    """

  Scenario: A field leads to no other path
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: dots, version: '1.0.0'}
    do:
      - fetch:
          call: http
          with: { method: get, endpoint: 'http://stock/public/{name}/all' }
    """
    And given the workflow input is:
    """yaml
    name: ..
    """
    When the workflow is executed
    Then the workflow should fault with error:
    """yaml
    type: https://serverlessworkflow.io/spec/1.0.0/errors/expression
    """
    And the service http://stock/all should have been asked 0 times

  Scenario: An address by an expression
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: expression, version: '1.0.0'}
    do:
      - fetch:
          call: http
          with: { method: get, endpoint: '${ "http://\(.service)/v\(.version)" }' }
    """
    And given the workflow input is:
    """yaml
    { service: stock, version: 2 }
    """
    And the service http://stock/v2 answers GET:
    """yaml
    here
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    here
    """

  Scenario: An expression that gives no address
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: no-address, version: '1.0.0'}
    do:
      - fetch:
          call: http
          with: { method: get, endpoint: { uri: '${ .service }' } }
    """
    When the workflow is executed
    Then the workflow should fault with error:
    """yaml
    type: https://serverlessworkflow.io/spec/1.0.0/errors/expression
    detail: 'with.endpoint: `.service` gives no text'
    """
