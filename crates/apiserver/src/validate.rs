//! Validation per kind, with upstream's wording.
