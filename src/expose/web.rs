//! The web configuration file, in exporter-toolkit's format.
