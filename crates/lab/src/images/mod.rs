//! Images played by programs inside this binary.
