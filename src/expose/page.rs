//! The landing page.
