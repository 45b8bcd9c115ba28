//! An OpenAI-compatible server for a checkpoint directory: messages in, tokens out, over HTTP.
//!
//! A request passes five seams, each testable alone:
//! - [`openai`]: the wire. A body becomes a validated [`openai::ChatRequest`] or an [`openai::ApiError`]; nothing that a
//!   client asks for is ignored silently.
//! - [`admission`]: who may generate now, who waits, who is sent away.
//! - [`engine`]: the trait that the inference engine implements, token ids in and sampled tokens out.
//! - [`prepare`]: messages and prompts become token ids, a JSON schema becomes a constraint.
//! - [`generation`] and [`text`]: tokens become text, stop strings end it, usage is counted.
//!
//! [`routes::router`] puts them behind axum, [`server`] runs the sockets, [`cli`] is the program.
//!
//! ```
//! use orpo_serve::openai::ChatRequest;
//!
//! let body = br#"{"model": "m", "messages": [{"role": "user", "content": "hi"}], "temperature": 0}"#;
//! let request = ChatRequest::parse(body)?;
//! assert_eq!(request.sampling.temperature, 0.0);
//!
//! let refused = ChatRequest::parse(br#"{"model": "m", "messages": [], "tools": [{}]}"#).unwrap_err();
//! assert_eq!(refused.param(), Some("tools"));
//! # Ok::<(), orpo_serve::openai::ApiError>(())
//! ```

pub mod admission;
pub mod checkpoint;
pub mod cli;
pub mod config;
pub mod engine;
pub mod generation;
pub mod openai;
pub mod prepare;
pub mod routes;
pub mod server;
pub mod state;
pub mod text;
pub mod token_bytes;
