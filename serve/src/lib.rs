//! An OpenAI-compatible server for a checkpoint directory: messages in, tokens out, over HTTP.
//!
//! A request passes these seams, each testable alone:
//! - [`openai`]: the wire. A body becomes a validated [`openai::ChatRequest`] or an [`openai::ApiError`]; nothing that a
//!   client asks for is ignored silently.
//! - [`admission`]: who may generate now, who waits, who is sent away.
//! - [`engine`]: the trait that the inference engine implements, token ids in and sampled tokens out.
//! - [`load`]: what becomes a model: a directory or a repository of the hub, its hashes, adapters merged into it.
//! - [`prepare`]: messages and prompts become token ids, a JSON schema becomes a constraint.
//! - [`generation`] and [`text`]: tokens become text, stop strings end it, usage is counted; [`tool_calls`] finds calls in it.
//!
//! [`routes::router`] puts them behind axum, [`layers`] stand around every request (ids, log, [`metrics`], [`keys`], CORS,
//! limits), [`server`] runs the sockets, [`tls`] encrypts them, [`cli`] is the program.
//!
//! ```
//! use orpo_serve::openai::ChatRequest;
//!
//! let body = br#"{"model": "m", "messages": [{"role": "user", "content": "hi"}], "temperature": 0}"#;
//! let request = ChatRequest::parse(body)?;
//! assert_eq!(request.sampling.temperature, 0.0);
//!
//! let refused = ChatRequest::parse(br#"{"model": "m", "messages": [], "functions": [{}]}"#).unwrap_err();
//! assert_eq!(refused.param(), Some("functions"));
//! # Ok::<(), orpo_serve::openai::ApiError>(())
//! ```

pub mod admission;
pub mod checkpoint;
pub mod cli;
pub mod config;
pub mod engine;
mod files;
pub mod generation;
pub mod host;
pub mod keys;
pub mod layers;
pub mod limits;
pub mod load;
mod meter;
pub mod metrics;
pub mod openai;
pub mod origin;
pub mod prepare;
mod process;
pub mod quantization;
pub mod record;
pub mod routes;
pub mod served;
pub mod server;
pub mod state;
pub mod text;
pub mod tls;
pub mod token_bytes;
pub mod tool_calls;
