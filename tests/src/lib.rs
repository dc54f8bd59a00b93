//! Nothing here: the tests are in `stories/`.
