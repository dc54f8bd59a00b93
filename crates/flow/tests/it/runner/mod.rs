//! Runs that the runner carries out.
