//! Core files that are made here.
