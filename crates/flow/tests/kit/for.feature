Feature: Loops
  As somebody who writes workflows
  I want the same done for each of several things
  So that I need not know how many there are

  Scenario: Each item has a name, and its index one
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: names, version: '1.0.0'}
    do:
      - weigh:
          for: { each: parcel, at: place, in: .parcels }
          do:
            - note:
                set: '${ . + { ($parcel): $place } }'
          output: { as: del(.parcels) }
    """
    And given the workflow input is:
    """yaml
    parcels: [ box, tube ]
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    { box: 0, tube: 1 }
    """

  Scenario: Without names they are item and index
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: defaults, version: '1.0.0'}
    do:
      - each:
          for: { in: '${ ["a", "b"] }' }
          do:
            - note:
                set: { list: '${ (.list // []) + [ "\($index)\($item)" ] }' }
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    list: [ 0a, 1b ]
    """

  Scenario: A loop over nothing passes its input on
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: nothing, version: '1.0.0'}
    do:
      - each:
          for: { in: .parcels }
          do:
            - note:
                set: { noted: true }
    """
    And given the workflow input is:
    """yaml
    parcels: []
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    parcels: []
    """

  # It is looked at before each turn, the first included, with what the turn before has made
  Scenario: While says when it is enough
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: while, version: '1.0.0'}
    do:
      - load:
          for: { each: weight, in: '[30, 40, 50, 60]' }
          while: .sum + $weight <= 100
          do:
            - add:
                set: { sum: '${ .sum + $weight }', last: '${ $index }' }
    """
    And given the workflow input is:
    """yaml
    sum: 0
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    { sum: 70, last: 1 }
    """

  Scenario: While may forbid the first turn
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: while-never, version: '1.0.0'}
    do:
      - load:
          for: { in: '[1]' }
          while: 'false'
          do:
            - add:
                set: { added: true }
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    {}
    """

  Scenario: A loop in a loop sees both items
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: nested, version: '1.0.0'}
    do:
      - rows:
          for: { each: row, in: '["a", "b"]' }
          do:
            - columns:
                for: { each: column, at: j, in: '[1, 2]' }
                do:
                  - cell:
                      set: { cells: '${ (.cells // []) + [ "\($row)\($column)\($index)\($j)" ] }' }
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    cells: [ a100, a201, b110, b211 ]
    """

  Scenario: What is no list is an error
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: no-list, version: '1.0.0'}
    do:
      - each:
          for: { in: .parcels }
          do:
            - note:
                set: { noted: true }
    """
    And given the workflow input is:
    """yaml
    parcels: { a: 1 }
    """
    When the workflow is executed
    Then the workflow should fault with error:
    """yaml
    type: https://serverlessworkflow.io/spec/1.0.0/errors/expression
    status: 400
    instance: /do/0/each
    detail: for.in is an object, not an array
    """

  Scenario: An error ends the loop
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: fails, version: '1.0.0'}
    do:
      - each:
          for: { in: '[1, 2, 3]' }
          do:
            - check:
                if: $item == 2
                raise:
                  error: { type: 'https://example.com/errors/two', status: 422, detail: '${ "item \($item)" }' }
            - note:
                set: { noted: '${ $item }' }
    """
    When the workflow is executed
    Then the workflow should fault with error:
    """yaml
    status: 422
    detail: item 2
    instance: /do/0/each/do/0/check
    """
    And note should complete with output:
    """yaml
    noted: 1
    """

  Scenario: Each turn makes its call
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: calls, version: '1.0.0'}
    do:
      - each:
          for: { each: id, in: '[7, 8]' }
          do:
            - fetch:
                input: { from: '{ id: $id, sum: (.sum // 0) }' }
                call: http
                with: { method: get, endpoint: 'http://stock/items/{id}' }
                output: { as: '{ sum: ($input.sum + .count) }' }
    """
    And the service http://stock/items/7 answers GET:
    """yaml
    count: 10
    """
    And the service http://stock/items/8 answers GET:
    """yaml
    count: 5
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    sum: 15
    """
