Feature: Who a call says to be by
  As somebody who writes workflows
  I want calls to show what a service asks for
  So that services outside of the mesh can be called too

  Scenario: Username and password
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: basic, version: '1.0.0'}
    do:
      - login:
          call: http
          with:
            method: get
            endpoint:
              uri: http://vault/
              authentication: { basic: { username: ada, password: '${ .password }' } }
    """
    And given the workflow input is:
    """yaml
    password: 'open: sesame'
    """
    And the service http://vault/ answers GET with status 200
    When the workflow is executed
    Then the workflow should complete
    And the service http://vault/ should have been sent:
    """yaml
    headers: { authorization: 'Basic YWRhOm9wZW46IHNlc2FtZQ==' }
    """

  Scenario: A token
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: bearer, version: '1.0.0'}
    do:
      - login:
          call: http
          with:
            method: get
            endpoint: { uri: 'http://vault/', authentication: { bearer: { token: '${ .user.token }' } } }
    """
    And given the workflow input is:
    """yaml
    user: { token: abc.def }
    """
    And the service http://vault/ answers GET with status 200
    When the workflow is executed
    Then the workflow should complete
    And the service http://vault/ should have been sent:
    """yaml
    headers: { authorization: Bearer abc.def }
    """

  Scenario: A policy that has a name
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: named, version: '1.0.0'}
    use:
      authentications:
        office: { basic: { username: '${ $context.user }', password: pw } }
    do:
      - who:
          set: { user: bob }
          export: { as: . }
      - login:
          call: http
          with:
            method: get
            endpoint: { uri: 'http://vault/', authentication: { use: office } }
    """
    And the service http://vault/ answers GET with status 200
    When the workflow is executed
    Then the workflow should complete
    And the service http://vault/ should have been sent:
    """yaml
    headers: { authorization: 'Basic Ym9iOnB3' }
    """

  Scenario: Username and password of a Secret
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: basic-secret, version: '1.0.0'}
    use:
      secrets: [ office-login ]
      authentications:
        office: { basic: { use: office-login } }
    do:
      - login:
          call: http
          with:
            method: get
            endpoint: { uri: 'http://vault/', authentication: { use: office } }
    """
    And the secret office-login is:
    """yaml
    { username: bob, password: pw, other: thing }
    """
    And the service http://vault/ answers GET with status 200
    When the workflow is executed
    Then the workflow should complete
    And the service http://vault/ should have been sent:
    """yaml
    headers: { authorization: 'Basic Ym9iOnB3' }
    """

  Scenario: A token of a Secret
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: bearer-secret, version: '1.0.0'}
    use: { secrets: [ badge, other ] }
    do:
      - first:
          call: http
          with:
            method: get
            endpoint: { uri: 'http://vault/a', authentication: { bearer: { use: badge } } }
      - second:
          call: http
          with:
            method: get
            endpoint: { uri: 'http://vault/b', authentication: { bearer: { token: '${ $secrets.badge.token + "-2" }' } } }
    """
    And the secret badge is:
    """yaml
    token: xyz
    """
    And the service http://vault/a answers GET with status 200
    And the service http://vault/b answers GET with status 200
    When the workflow is executed
    Then the workflow should complete
    And the service http://vault/a should have been sent:
    """yaml
    headers: { authorization: Bearer xyz }
    """
    And the service http://vault/b should have been sent:
    """yaml
    headers: { authorization: Bearer xyz-2 }
    """

  Scenario: A Secret that is not there
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: no-secret, version: '1.0.0'}
    use: { secrets: [ badge ] }
    do:
      - login:
          call: http
          with:
            method: get
            endpoint: { uri: 'http://vault/', authentication: { bearer: { use: badge } } }
    """
    When the workflow is executed
    Then the workflow should fault with error:
    """yaml
    type: https://serverlessworkflow.io/spec/1.0.0/errors/configuration
    status: 400
    detail: 'with.endpoint.authentication: there is no Secret badge that it may read'
    instance: /do/0/login
    """
    And the service http://vault/ should have been asked 0 times

  Scenario: A key that a Secret does not have
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: no-key, version: '1.0.0'}
    use: { secrets: [ badge ] }
    do:
      - mail:
          call: http
          with:
            method: get
            endpoint: http://vault/
            headers: { X-Token: '${ $secrets.badge.token }' }
    """
    And the secret badge is:
    """yaml
    tokn: abcdef
    """
    When the workflow is executed
    Then the workflow should fault with error:
    """yaml
    type: https://serverlessworkflow.io/spec/1.0.0/errors/configuration
    status: 400
    detail: 'the Secret badge has no key `token`, which the call takes of it: add it to the Secret, or name a key that it has'
    instance: /do/0/mail
    """
    And the service http://vault/ should have been asked 0 times

  Scenario: A key that a Secret may not have
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: may-key, version: '1.0.0'}
    use: { secrets: [ badge ] }
    do:
      - mail:
          call: http
          with:
            method: get
            endpoint: http://vault/
            headers: { X-Token: '${ $secrets.badge.token // "none" }' }
    """
    And the secret badge is:
    """yaml
    tokn: abcdef
    """
    And the service http://vault/ answers GET with status 200
    When the workflow is executed
    Then the workflow should complete
    And the service http://vault/ should have been sent:
    """yaml
    headers: { x-token: none }
    """

  Scenario: A Secret without what is needed
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: other-secret, version: '1.0.0'}
    use: { secrets: [ badge ] }
    do:
      - login:
          call: http
          with:
            method: get
            endpoint: { uri: 'http://vault/', authentication: { basic: { use: badge } } }
    """
    And the secret badge is:
    """yaml
    username: bob
    """
    When the workflow is executed
    Then the workflow should fault with error:
    """yaml
    detail: 'with.endpoint.authentication: the Secret badge has no text as `password`'
    """

  Scenario: What a call says to be by can be said elsewhere
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: described, version: '1.0.0'}
    do:
      - login:
          call: http
          with:
            method: post
            endpoint: { uri: 'http://vault/', authentication: { bearer: { token: abc } } }
            headers: { X-Token: '${ $authorization.parameter }' }
            body: { by: '${ $authorization.scheme }' }
    """
    And the service http://vault/ answers POST with status 200
    When the workflow is executed
    Then the workflow should complete
    And the service http://vault/ should have been sent:
    """yaml
    headers: { authorization: Bearer abc, x-token: abc }
    body: { by: Bearer }
    """

  Scenario: The author's own header goes before
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: own-header, version: '1.0.0'}
    do:
      - login:
          call: http
          with:
            method: get
            endpoint: { uri: 'http://vault/', authentication: { bearer: { token: abc } } }
            headers: { authorization: '${ "Token \($authorization.parameter)" }' }
    """
    And the service http://vault/ answers GET with status 200
    When the workflow is executed
    Then the workflow should complete
    And the service http://vault/ should have been sent:
    """yaml
    headers: { authorization: Token abc }
    """

  Scenario: What was said is not shown in an answer
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: shown, version: '1.0.0'}
    do:
      - login:
          call: http
          with:
            method: get
            endpoint: { uri: 'http://vault/', authentication: { bearer: { token: abc } } }
            output: response
          output: { as: .request.headers }
    """
    And the service http://vault/ answers GET with status 200
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    authorization: '***'
    idempotency-key: run-1/do/0/login
    """

  Scenario: Secrets in what a call sends, and in its input
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: secrets, version: '1.0.0'}
    use: { secrets: [ api-key ] }
    do:
      - fetch:
          input: { from: '{ key: $secrets["api-key"].key }' }
          call: http
          with:
            method: post
            endpoint: http://vault/{key}
            headers: { X-Key: '${ $secrets["api-key"].key }' }
            query: { k: '${ .key }' }
            body: '${ $secrets | keys }'
    """
    And the secret api-key is:
    """yaml
    key: k1
    """
    And the secret not-listed is:
    """yaml
    key: k2
    """
    And the service http://vault/k1?k=k1 answers POST with status 200
    When the workflow is executed
    Then the workflow should complete
    And the service http://vault/k1?k=k1 should have been sent:
    """yaml
    headers: { x-key: k1 }
    body: [ api-key ]
    """

  # It would be read as another user with another password (RFC 7617, section 2)
  Scenario: A username with a colon
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: colon, version: '1.0.0'}
    do:
      - login:
          call: http
          with:
            method: get
            endpoint: { uri: 'http://vault/', authentication: { basic: { username: '${ .name }', password: pw } } }
    """
    And given the workflow input is:
    """yaml
    name: root:x
    """
    And the service http://vault/ answers GET with status 200
    When the workflow is executed
    Then the workflow should fault with error:
    """yaml
    type: https://serverlessworkflow.io/spec/1.0.0/errors/configuration
    instance: /do/0/login
    """
    And the service http://vault/ should have been asked 0 times

  Scenario: A token with a line break
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: line-break, version: '1.0.0'}
    do:
      - login:
          call: http
          with:
            method: get
            endpoint: { uri: 'http://vault/', authentication: { bearer: { token: '${ .token }' } } }
    """
    And given the workflow input is:
    """yaml
    token: "abc\r\nx-admin: true"
    """
    And the service http://vault/ answers GET with status 200
    When the workflow is executed
    Then the workflow should fault with error:
    """yaml
    type: https://serverlessworkflow.io/spec/1.0.0/errors/configuration
    detail: 'with.endpoint.authentication: what `Bearer` is given fits no header…'
    """
    And the service http://vault/ should have been asked 0 times

  Scenario: A token that is no text
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: no-text, version: '1.0.0'}
    do:
      - login:
          call: http
          with:
            method: get
            endpoint: { uri: 'http://vault/', authentication: { bearer: { token: '${ .nowhere }' } } }
    """
    When the workflow is executed
    Then the workflow should fault with error:
    """yaml
    detail: 'with.endpoint.authentication: it has no text as `token`'
    """

  Scenario: What is answered of a secret is kept nowhere
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: echo, version: '1.0.0'}
    use: { secrets: [ api-key ] }
    do:
      - echo:
          input: { from: '{ key: $secrets["api-key"].key, id: .id }' }
          call: http
          with:
            method: post
            endpoint: { uri: 'http://vault/{key}', authentication: { basic: { username: bob, password: '${ $secrets["api-key"].key }' } } }
            headers: { X-Key: '${ .key }' }
            output: response
          output: { as: '{ content: .content, uri: .request.uri, header: .request.headers["x-key"] }' }
      - fails:
          try:
            - refused: { call: http, with: { method: get, endpoint: 'http://other/', body: '${ $secrets["api-key"].key }' } }
          catch: { as: e, do: [ { note: { set: { all: '${ $input }', why: '${ $e.detail }', title: '${ $e.title }' } } } ] }
    """
    And given the workflow input is:
    """yaml
    id: 7
    """
    And the secret api-key is:
    """yaml
    key: hush&hush
    """
    And the service http://vault/hush%26hush answers POST as follows:
    """yaml
    body: { 'hush&hush': [ 'you said hush&hush', 'Ym9iOmh1c2gmaHVzaA==', 'aHVzaCZodXNo' ] }
    """
    And the service http://other/ answers GET as follows:
    """yaml
    status: 403
    headers: { content-type: application/problem+json }
    body: { title: 'no hush&hush here', detail: 'hush&hush is wrong' }
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    all:
      content: { '***': [ 'you said ***', '***', '***' ] }
      uri: http://vault/***
      header: '***'
    title: 'no *** here'
    why: '*** is wrong'
    """
    And the workflow should keep nothing of hush

  # It is evaluated with the arguments of the call, so that the activation has the input as it came
  Scenario: What input.from makes of secrets is for the call alone
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: from, version: '1.0.0'}
    use: { secrets: [ api-key ] }
    do:
      - send:
          input: { from: '{ key: $secrets["api-key"].key }' }
          call: http
          with: { method: post, endpoint: 'http://vault/', body: '${ $input }' }
          output: { as: '${ $input }' }
    """
    And given the workflow input is:
    """yaml
    id: 7
    """
    And the secret api-key is:
    """yaml
    key: hush-hush
    """
    And the service http://vault/ answers POST with status 200
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    id: 7
    """
    And the service http://vault/ should have been sent:
    """yaml
    body: { key: hush-hush }
    """
    And the workflow should keep nothing of hush

  Scenario: A token that is fetched
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: oauth2, version: '1.0.0'}
    use:
      secrets: [ client ]
      authentications:
        shop:
          oauth2:
            authority: http://login
            grant: client_credentials
            client: { id: flow, secret: '${ $secrets.client.secret }', authentication: client_secret_basic }
            scopes: [ read, write ]
            audiences: [ vault ]
    do:
      - first: { call: http, with: { method: get, endpoint: { uri: 'http://vault/a', authentication: { use: shop } } } }
      - second: { call: http, with: { method: get, endpoint: { uri: 'http://vault/b', authentication: { use: shop } } } }
    """
    And the secret client is:
    """yaml
    secret: hush hush
    """
    And the service http://login/oauth2/token answers POST as follows:
    """yaml
    body: { access_token: tok-en-1, token_type: Bearer, expires_in: 3600 }
    """
    And the service http://vault/a answers GET as follows:
    """yaml
    body: tok-en-1
    """
    And the service http://vault/b answers GET as follows:
    """yaml
    body: [ tok-en-1 ]
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    [ '***' ]
    """
    And the service http://login/oauth2/token should have been asked 1 time
    And the service http://login/oauth2/token should have been sent:
    """yaml
    headers: { authorization: 'Basic Zmxvdzpod…', content-type: application/x-www-form-urlencoded }
    text: grant_type=client_credentials&scope=read%20write&audience=vault
    """
    And the service http://vault/b should have been sent:
    """yaml
    headers: { authorization: Bearer tok-en-1 }
    """
    And the workflow should keep nothing of tok-en

  Scenario: A token that is refused is fetched once more
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: oauth2-again, version: '1.0.0'}
    use:
      secrets: [ client ]
      authentications: { shop: { oidc: { use: client } } }
    do:
      - first: { call: http, with: { method: get, endpoint: { uri: 'http://vault/a', authentication: { use: shop } } } }
      - second: { call: http, with: { method: get, endpoint: { uri: 'http://vault/b', authentication: { use: shop } } } }
    """
    And the secret client is:
    """yaml
    { authority: 'http://login/realm/', id: flow, secret: hush-hush }
    """
    And the service http://login/realm/.well-known/openid-configuration answers GET as follows:
    """yaml
    body: { issuer: 'http://login/realm', token_endpoint: 'http://login/t' }
    """
    And the service http://login/t answers POST as follows:
    """yaml
    body: { access_token: tok-en-1, expires_in: 3600 }
    """
    And the service http://login/t answers POST as follows:
    """yaml
    body: { access_token: tok-en-2, expires_in: 3600 }
    """
    And the service http://vault/a answers GET with status 200
    And the service http://vault/b answers GET with status 401
    And the service http://vault/b answers GET with status 200
    And the runner stays the same
    When the workflow is executed
    Then the workflow should complete
    And the service http://login/t should have been sent:
    """yaml
    text: grant_type=client_credentials&client_id=flow&client_secret=hush-hush
    """
    And the service http://vault/b should have been sent:
    """yaml
    headers: { authorization: Bearer tok-en-2, idempotency-key: run-1/do/1/second }
    """

  Scenario: No token is given
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: no-token, version: '1.0.0'}
    do:
      - call:
          call: http
          with:
            method: get
            endpoint:
              uri: http://vault/
              authentication: { oauth2: { authority: 'http://login', grant: client_credentials, client: { id: flow, secret: 'very secret' } } }
    """
    And the service http://login/oauth2/token answers POST as follows:
    """yaml
    status: 400
    body: { error: invalid_client, error_description: who is that }
    """
    And the service http://vault/ answers GET with status 200
    When the workflow is executed
    Then the workflow should fault with error:
    """yaml
    type: https://serverlessworkflow.io/spec/1.0.0/errors/authentication
    status: 401
    detail: 'with.endpoint.authentication: http://login/oauth2/token gives no token, but 400: invalid_client who is that'
    instance: /do/0/call
    """
    And the service http://vault/ should have been asked 0 times

  Scenario: A token is asked for as the policy says
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: token-json, version: '1.0.0'}
    do:
      - call:
          call: http
          with:
            method: get
            endpoint:
              uri: http://vault/
              authentication:
                oauth2:
                  authority: http://login/{realm}
                  grant: client_credentials
                  client: { id: '${ .client }', authentication: none }
                  request: { encoding: application/json }
                  endpoints: { token: /token }
                  audiences: [ a, b ]
                  issuers: [ 'http://login/{realm}/' ]
    """
    And given the workflow input is:
    """yaml
    { realm: shop, client: flow }
    """
    # Its claims are {"iss":"http://login/shop"}
    And the service http://login/shop/token answers POST as follows:
    """yaml
    body: { access_token: e30.eyJpc3MiOiJodHRwOi8vbG9naW4vc2hvcCJ9.x, token_type: bearer, expires_in: '60' }
    """
    And the service http://vault/ answers GET with status 200
    When the workflow is executed
    Then the workflow should complete
    And the service http://login/shop/token should have been sent:
    """yaml
    headers: { content-type: application/json }
    body: { grant_type: client_credentials, client_id: flow, audience: [ a, b ] }
    """
    And the service http://vault/ should have been sent:
    """yaml
    headers: { authorization: Bearer e30.eyJpc3MiOiJodHRwOi8vbG9naW4vc2hvcCJ9.x }
    """

  Scenario: A token of another issuer
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: token-issuer, version: '1.0.0'}
    do:
      - call:
          call: http
          with:
            method: get
            endpoint:
              uri: http://vault/
              authentication:
                oauth2: { authority: 'http://login', grant: client_credentials, client: { id: flow, secret: very-secret }, issuers: [ 'http://login' ] }
    """
    And the service http://login/oauth2/token answers POST as follows:
    """yaml
    body: { access_token: e30.eyJpc3MiOiJodHRwOi8vbG9naW4vc2hvcCJ9.x }
    """
    And the service http://vault/ answers GET with status 200
    When the workflow is executed
    Then the workflow should fault with error:
    """yaml
    status: 401
    detail: 'with.endpoint.authentication: tokens are issued by "http://login/shop", which is none of those that may'
    """
    And the service http://vault/ should have been asked 0 times
