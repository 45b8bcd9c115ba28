//! The engine on candle, for architectures that mistralrs cannot run: Phi-2 and OPT, by decoders of our own
//! (candle-transformers has no OPT, and its Phi gives the logits of a pass's last position only). In f32 on the CPU.
//!
//! One thread owns the model and does one job at a time in the order of arrival, so that a reply is the same to the bit
//! whatever was asked before or beside it. A job that panics is answered with an error, and the next one begins with an
//! empty cache.

#[cfg(feature = "candle")]
mod attention;
pub mod config;
#[cfg(feature = "candle")]
mod decoder;
#[cfg(feature = "candle")]
mod opt;
#[cfg(feature = "candle")]
mod phi;
#[cfg(feature = "candle")]
mod rotary;
#[cfg(feature = "candle")]
mod worker;

#[cfg(feature = "candle")]
pub use worker::CandleEngine;
