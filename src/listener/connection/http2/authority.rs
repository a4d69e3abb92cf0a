//! The `:authority` of a request.
