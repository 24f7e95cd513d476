//! The schema table and the engine over it.
