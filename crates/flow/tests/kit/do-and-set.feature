Feature: Tasks one after the other, and what they set
  As somebody who writes workflows
  I want each task to begin with what the one before has made
  So that a workflow reads from top to bottom

  # The fields of a set are values, or expressions where they stand within ${ } as a whole
  Scenario: Set makes an object of values and expressions
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: set, version: '1.0.0'}
    do:
      - label:
          set:
            text: parcel
            weight: ${ .kilograms * 1000 }
            fragile: true
            nothing: null
            sides: [ 1, '${ .width }', { inner: '${ .width / 2 }' } ]
    """
    And given the workflow input is:
    """yaml
    kilograms: 2
    width: 30
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    text: parcel
    weight: 2000
    fragile: true
    nothing: null
    sides: [ 1, 30, { inner: 15 } ]
    """

  Scenario: Set of an expression as a whole
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: set-whole, version: '1.0.0'}
    do:
      - pick:
          set: ${ .parcels[1] }
    """
    And given the workflow input is:
    """yaml
    parcels: [ small, large ]
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    large
    """

  # Strict mode: what stands within a text is no expression
  Scenario: A text with braces inside stays a text
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: strict, version: '1.0.0'}
    do:
      - greet:
          set:
            text: 'Hello ${ .name }!'
            code: .name
            made: '${ "Hello \(.name)!" }'
    """
    And given the workflow input is:
    """yaml
    name: Ada
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    text: 'Hello ${ .name }!'
    code: .name
    made: Hello Ada!
    """

  # What only jq as a whole knows how to do
  Scenario: Expressions that loop
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: jq, version: '1.0.0'}
    do:
      - sum:
          set:
            total: ${ [ .lines[] | .price * .count ] | add }
            names: '${ .lines | map(.name | ascii_upcase) | join(", ") }'
            cheap: ${ .lines | map(select(.price < 5)) | length }
    """
    And given the workflow input is:
    """yaml
    lines:
      - { name: pen, price: 2, count: 10 }
      - { name: ink, price: 7, count: 3 }
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    total: 41
    names: PEN, INK
    cheap: 1
    """

  Scenario: A task begins with the output of the one before
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: chain, version: '1.0.0'}
    do:
      - one:
          set: { n: '${ .n + 1 }' }
      - two:
          set: { n: '${ .n * 10 }' }
      - three:
          set: { n: '${ .n - 3 }' }
    """
    And given the workflow input is:
    """yaml
    n: 4
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    n: 47
    """
    And one should run first
    And two should run after one
    And two should run before three
    And three should run last

  Scenario: A list within a list
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: nested, version: '1.0.0'}
    do:
      - outer:
          do:
            - inner:
                do:
                  - first:
                      set: '${ . + { first: true } }'
                  - second:
                      set: '${ . + { second: true } }'
            - third:
                set: '${ . + { third: true } }'
      - fourth:
          set: '${ . + { fourth: true } }'
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    { first: true, second: true, third: true, fourth: true }
    """
    And inner should complete with output:
    """yaml
    { first: true, second: true }
    """
    And outer should run first
    And third should run after second

  Scenario: A list without tasks passes its input on
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: empty, version: '1.0.0'}
    do:
      - nothing:
          do: []
    """
    And given the workflow input is:
    """yaml
    a: 1
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    a: 1
    """

  Scenario: Metadata change nothing
    Given a workflow with definition:
    """yaml
    document:
      dsl: '1.0.0'
      namespace: kit
      name: metadata
      version: '2.1.0-rc.1+build.5'
      title: About metadata
      summary: It has **some**.
      tags: { team: blue }
      metadata: { any: [ thing ] }
    do:
      - note:
          metadata: { reviewed: true }
          set: { done: true }
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    done: true
    """

  Scenario: A document says that its expressions are jq in strict mode
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.1', namespace: kit, name: evaluate, version: '1.0.0'}
    evaluate: { language: jq, mode: strict }
    do:
      - one: { set: { n: '${ .n + 1 }', text: .n + 1 } }
    """
    And given the workflow input is:
    """yaml
    n: 1
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    { n: 2, text: .n + 1 }
    """
