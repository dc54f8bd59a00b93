Feature: Calls of services by HTTP
  As somebody who writes workflows
  I want to say what a request has, and what becomes of its answer
  So that any service can be called as it is

  Scenario: A request without anything
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: plain, version: '1.0.0'}
    do:
      - fetch:
          call: http
          with: { method: get, endpoint: http://stock/items }
    """
    And the service http://stock/items answers GET:
    """yaml
    [ { id: 1 } ]
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    [ { id: 1 } ]
    """
    And the service http://stock/items should have been sent:
    """yaml
    { method: GET, text: '', headers: { content-type: null, authorization: null } }
    """

  Scenario: Methods of either case, and by an expression
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: methods, version: '1.0.0'}
    do:
      - replace:
          call: http
          with: { method: PUT, endpoint: http://stock/a }
      - change:
          call: http
          with: { method: patch, endpoint: http://stock/b }
      - remove:
          call: http
          with: { method: '${ $workflow.input.method }', endpoint: http://stock/c }
    """
    And given the workflow input is:
    """yaml
    method: delete
    """
    And the service http://stock/a answers PUT with status 204
    And the service http://stock/b answers PATCH with status 204
    And the service http://stock/c answers DELETE with status 204
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    null
    """
    And the service http://stock/c should have been asked 1 time

  Scenario: Headers are values and expressions
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: headers, version: '1.0.0'}
    do:
      - fetch:
          call: http
          with:
            method: get
            endpoint: http://stock/
            headers:
              Accept-Language: de
              X-Order: ${ .id }
              X-Missing: ${ .missing }
    """
    And given the workflow input is:
    """yaml
    id: 77
    """
    And the service http://stock/ answers GET:
    """yaml
    fine
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    fine
    """
    And the service http://stock/ should have been sent:
    """yaml
    headers: { accept-language: de, x-order: '77', x-missing: null }
    """

  Scenario: Headers as a whole by an expression
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: headers-whole, version: '1.0.0'}
    do:
      - fetch:
          call: http
          with: { method: get, endpoint: http://stock/, headers: '${ .headers }' }
    """
    And given the workflow input is:
    """yaml
    headers: { x-a: one, x-b: true }
    """
    And the service http://stock/ answers GET with status 200
    When the workflow is executed
    Then the workflow should complete
    And the service http://stock/ should have been sent:
    """yaml
    headers: { x-a: one, x-b: 'true' }
    """

  Scenario: A query is put behind what the endpoint has, percent-encoded
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: query, version: '1.0.0'}
    do:
      - search:
          call: http
          with:
            method: get
            endpoint: http://stock/search?lang=en
            query:
              q: ${ .words }
              size: 20
    """
    And given the workflow input is:
    """yaml
    words: a&b =c
    """
    And the service http://stock/search?lang=en&q=a%26b%20%3Dc&size=20 answers GET:
    """yaml
    found
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    found
    """

  Scenario: A query as a whole by an expression, a list as several fields
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: query-whole, version: '1.0.0'}
    do:
      - search:
          call: http
          with: { method: get, endpoint: http://stock/search, query: '${ { tag: .tags } }' }
    """
    And given the workflow input is:
    """yaml
    tags: [ red, blue ]
    """
    And the service http://stock/search?tag=red&tag=blue answers GET:
    """yaml
    found
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    found
    """

  Scenario: A body of JSON, with expressions in it
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: body, version: '1.0.0'}
    do:
      - order:
          call: http
          with:
            method: post
            endpoint: http://orders/
            body:
              customer: ${ .name }
              lines: [ { item: pen, count: '${ .count }' } ]
    """
    And given the workflow input is:
    """yaml
    { name: Ada, count: 3 }
    """
    And the service http://orders/ answers POST with status 201:
    """yaml
    id: 1
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    id: 1
    """
    And the service http://orders/ should have been sent:
    """yaml
    method: POST
    headers: { content-type: application/json }
    body: { customer: Ada, lines: [ { item: pen, count: 3 } ] }
    """

  Scenario: A body that is an expression as a whole
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: body-whole, version: '1.0.0'}
    do:
      - order:
          call: http
          with: { method: post, endpoint: http://orders/, body: '${ . }' }
    """
    And given the workflow input is:
    """yaml
    { any: [ 1, null ] }
    """
    And the service http://orders/ answers POST with status 200
    When the workflow is executed
    Then the workflow should complete
    And the service http://orders/ should have been sent:
    """yaml
    body: { any: [ 1, null ] }
    """

  Scenario: A body of text as its content type says
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: body-text, version: '1.0.0'}
    do:
      - print:
          call: http
          with:
            method: post
            endpoint: http://printer/
            headers: { Content-Type: text/plain; charset=utf-8 }
            body: '${ "Dear \(.name)" }'
    """
    And given the workflow input is:
    """yaml
    name: Ada
    """
    And the service http://printer/ answers POST with status 200
    When the workflow is executed
    Then the workflow should complete
    And the service http://printer/ should have been sent:
    """yaml
    text: Dear Ada
    headers: { content-type: text/plain; charset=utf-8 }
    """

  Scenario: A body of a form as its content type says
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: body-form, version: '1.0.0'}
    do:
      - subscribe:
          call: http
          with:
            method: post
            endpoint: http://news/
            headers: { content-type: application/x-www-form-urlencoded }
            body: { mail: 'a+b@example.com' }
    """
    And the service http://news/ answers POST with status 200
    When the workflow is executed
    Then the workflow should complete
    And the service http://news/ should have been sent:
    """yaml
    text: mail=a%2Bb%40example.com
    """

  # Not null: that would leave tasks behind it nothing to begin with that was there
  Scenario: An answer that is no JSON is a text
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: text, version: '1.0.0'}
    do:
      - fetch:
          call: http
          with: { method: get, endpoint: http://motd/ }
    """
    And the service http://motd/ answers GET as follows:
    """yaml
    headers: { content-type: text/plain }
    text: 'good { morning'
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    good { morning
    """

  Scenario: A raw answer is its body in Base64
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: raw, version: '1.0.0'}
    do:
      - fetch:
          call: http
          with: { method: get, endpoint: http://motd/, output: raw }
    """
    And the service http://motd/ answers GET as follows:
    """yaml
    headers: { content-type: application/json }
    text: '{}'
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    e30=
    """

  Scenario: An answer as a whole
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: response, version: '1.0.0'}
    do:
      - fetch:
          call: http
          with:
            method: post
            endpoint: http://orders/
            headers: { X-A: b }
            output: response
    """
    And the service http://orders/ answers POST as follows:
    """yaml
    status: 201
    headers: { location: /orders/9 }
    body: { id: 9 }
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    request: { method: POST, uri: 'http://orders/', headers: { x-a: b, idempotency-key: run-1/do/0/fetch } }
    statusCode: 201
    headers: { location: /orders/9, content-type: application/json }
    content: { id: 9 }
    """

  Scenario: A redirect is an error
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: redirect, version: '1.0.0'}
    do:
      - fetch:
          call: http
          with: { method: get, endpoint: http://old/ }
    """
    And the service http://old/ answers GET as follows:
    """yaml
    status: 302
    headers: { location: 'http://new/' }
    """
    When the workflow is executed
    Then the workflow should fault with error:
    """yaml
    type: https://serverlessworkflow.io/spec/1.0.0/errors/communication
    status: 302
    title: Found
    instance: /do/0/fetch
    """

  Scenario: A redirect is an answer where the author says so, and is not followed
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: redirect-wanted, version: '1.0.0'}
    do:
      - fetch:
          call: http
          with: { method: get, endpoint: http://old/, redirect: true, output: response }
          output: { as: '{ statusCode, to: .headers.location }' }
    """
    And the service http://old/ answers GET as follows:
    """yaml
    status: 302
    headers: { location: 'http://new/' }
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    { statusCode: 302, to: 'http://new/' }
    """
    And the service http://new/ should have been asked 0 times

  Scenario: An answer that is an error
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: error, version: '1.0.0'}
    do:
      - pay:
          call: http
          with: { method: post, endpoint: http://bank/ }
    """
    And the service http://bank/ answers POST as follows:
    """yaml
    status: 503
    headers: { content-type: text/plain }
    text: closed for today
    """
    When the workflow is executed
    Then the workflow should fault with error:
    """yaml
    type: https://serverlessworkflow.io/spec/1.0.0/errors/communication
    status: 503
    title: Service Unavailable
    detail: 'it was answered with 503: closed for today'
    instance: /do/0/pay
    """
    And pay should fault

  Scenario: An answer that describes its error
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: problem, version: '1.0.0'}
    do:
      - pay:
          call: http
          with: { method: post, endpoint: http://bank/ }
    """
    And the service http://bank/ answers POST as follows:
    """yaml
    status: 403
    headers: { content-type: application/problem+json }
    body: { title: Out of credit, detail: 30 are missing, type: 'https://bank/errors/credit' }
    """
    When the workflow is executed
    Then the workflow should fault with error:
    """yaml
    type: https://serverlessworkflow.io/spec/1.0.0/errors/communication
    status: 403
    title: Out of credit
    detail: 30 are missing
    """

  Scenario: An answer that says to be JSON and is not
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: no-json, version: '1.0.0'}
    do:
      - fetch:
          call: http
          with: { method: get, endpoint: http://stock/ }
    """
    And the service http://stock/ answers GET as follows:
    """yaml
    headers: { content-type: application/json }
    text: '{'
    """
    When the workflow is executed
    Then the workflow should fault with error:
    """yaml
    type: https://serverlessworkflow.io/spec/1.0.0/errors/communication
    status: 500
    detail: the answer is said to be JSON and is not…
    """

  Scenario: A service that is not there
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: nobody, version: '1.0.0'}
    do:
      - fetch:
          call: http
          with: { method: get, endpoint: http://nobody/ }
    """
    When the workflow is executed
    Then the workflow should fault with error:
    """yaml
    type: https://serverlessworkflow.io/spec/1.0.0/errors/communication
    instance: /do/0/fetch
    """

  Scenario: What makes no request is an error of the configuration
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: no-request, version: '1.0.0'}
    do:
      - fetch:
          call: http
          with: { method: get, endpoint: http://stock/, headers: { x-list: '${ [1, 2] }' } }
    """
    When the workflow is executed
    Then the workflow should fault with error:
    """yaml
    type: https://serverlessworkflow.io/spec/1.0.0/errors/configuration
    status: 400
    detail: with.headers.x-list is [1,2], not a text
    instance: /do/0/fetch
    """

  Scenario: An argument that cannot be evaluated
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: bad-argument, version: '1.0.0'}
    do:
      - fetch:
          call: http
          with: { method: post, endpoint: http://stock/, body: '${ .a + 1 }' }
    """
    And given the workflow input is:
    """yaml
    a: text
    """
    When the workflow is executed
    Then the workflow should fault with error:
    """yaml
    type: https://serverlessworkflow.io/spec/1.0.0/errors/expression
    status: 400
    instance: /do/0/fetch
    """
    And the service http://stock/ should have been asked 0 times

  Scenario: The arguments see the transformed input
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: transformed, version: '1.0.0'}
    do:
      - fetch:
          input: { from: '{ id: .order.id }' }
          call: http
          with: { method: post, endpoint: 'http://stock/{id}', body: '${ [ ., $input, $task.input ] }' }
    """
    And given the workflow input is:
    """yaml
    order: { id: 5 }
    """
    And the service http://stock/5 answers POST with status 200
    When the workflow is executed
    Then the workflow should complete
    And the service http://stock/5 should have been sent:
    """yaml
    body: [ { id: 5 }, { id: 5 }, { order: { id: 5 } } ]
    """
