//! atlas-sidecar: one process beside an Atlas database that measures it and its host, stores the samples, and shows them to Prometheus.
//!
//! ```text
//!    host (/proc, /sys)   HTTP targets   SQL queries   Atlas' tables   the engine's statistics
//!            └────────────────┴──────────────┴──────────────┴──────────────────┘
//!                                            │ Batch, one task per source
//!                                         scrape ──── health of each source
//!                                            │
//!                      ┌─────────────────────┴─────────────┐
//!                      ▼                                   ▼
//!               ingest::latest                          ingest ──▶ SampleStore (port) ──▶ system_metrics
//!               (last values)                      (bounded queue)                              │
//!                      │                                                                        │ rows that others wrote
//!                      ▼                                                                        ▼
//!                   expose ◀── own registry                                    source `table`, back into scrape
//!       /metrics  /-/healthy  /-/ready  /
//! ```
//!
//! Beside that, [`schedule`] runs [`jobs`], which look after what is stored and make backups; [`control`] is how commands reach a running sidecar.
//!
//! ```text
//!     schedule ──▶ RunLog (port)
//!         │ Due
//!         ▼
//!       jobs ──▶ store, engine: expire, roll up, retain, upkeep
//!         │
//!         ▼
//!    backup::ship ◀──pages── Source (port), an engine's
//!         │
//!         └──▶ codec ──▶ ObjectStore (port): a bucket, a folder ──▶ manifest, by create: the commit
//!                                  │
//!                               catalog ──▶ verify, prune
//!                                  │
//!                                 plan ──▶ restore ──▶ Rebuild (port), an engine's ──▶ a new file
//! ```
//!
//! Data enters through [`scrape`], time through [`schedule`]; samples leave through [`expose`] and [`store`], backups through [`object`]. An engine is a bag
//! of parts, chosen once in [`engine`]. The database is never asked by a request: `/metrics` answers while it is locked, gone, or slow.
//!
//! # Words
//!
//! A *source* is collected into a *batch* of *families* of *samples*. A *series* is a name with labels. *Own* rows of `system_metrics` were
//! written by a sidecar, *foreign* ones by anybody else; ids tell them apart.
//!
//! # The ladder
//!
//! A module uses only modules of a lower rank (a test reads the `use` lines):
//!
//! ```text
//! rank 6  main
//! rank 5  app, cli
//! rank 4  config      knows everyone's Settings; nobody imports it but rank 5
//! rank 3  jobs        engine          (do not know each other)
//! rank 2  scrape, ingest → expose, control, backup   (expose may read ingest::latest; otherwise strangers)
//! rank 1  schedule → store, object    (framework and ports; the scheduler keeps its runs in the run log)
//! rank 0  sample clock nearest retry secret task telemetry
//! ```

pub mod app;
pub mod backup;
pub mod cli;
pub mod clock;
pub mod config;
pub mod control;
pub mod engine;
pub mod expose;
pub mod ingest;
pub mod jobs;
pub mod nearest;
pub mod object;
pub mod retry;
pub mod sample;
pub mod schedule;
pub mod scrape;
pub mod secret;
pub mod store;
pub mod task;
pub mod telemetry;
