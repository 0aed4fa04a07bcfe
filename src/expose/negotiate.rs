//! What a client may ask for: content negotiation, compression, filters, timeout.
