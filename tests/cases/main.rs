//! Situations from public reports about trainers, servers and evaluations, each tried on the built program and held to
//! what is right. Every test names the situation; its inputs are a folder of `$ORPO_SHARED/cases` (or `../shared/cases`),
//! and where that is absent the tests say that they skip.

mod data;
mod evaluating;
mod models;
mod serving;
mod setting;
mod stand_in;
mod training;
