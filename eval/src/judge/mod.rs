//! Asking a model for verdicts, without asking anything twice and without losing anything that was paid for.
//!
//! A [`Request`] is the whole body of a chat request; its hash is its name in the verdict store ([`verdicts`]), a file to
//! which every reply is appended the moment it arrives. [`Judge::ask`] asks what is not there yet, many at a time, within
//! the limits of requests and tokens per minute ([`pace`]) and of money ([`cost`]). An [`annotator`] is a prompt
//! ([`template`]) and a way to read preferences from replies ([`parser`]); which [`way`]s a judge can do, its first reply shows.

pub mod annotator;
mod ask;
pub mod cost;
mod pace;
pub mod parser;
mod python_literal;
mod request;
pub mod template;
pub mod verdicts;
pub mod way;

pub use ask::{Judge, JudgeError, Outcome, Outcomes, Tally, Unread, Why};
pub use pace::Pace;
pub use request::Request;

pub use crate::reply::{Reply, Usage};
