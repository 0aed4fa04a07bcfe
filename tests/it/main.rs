//! The one integration binary: real parts, scratch folders, free ports.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod support;

mod atlas;
mod backup;
mod codec;
mod config;
mod copy;
mod dashboards;
mod expose;
mod golden;
mod host;
mod ladder;
mod live;
mod object;
mod pages;
mod postgres;
mod prometheus;
mod roll_up;
mod rules;
mod running;
mod schedule;
mod schema;
mod shipped;
mod store;
mod targets;
mod upkeep;
