//! `POST /v1/load_lora_adapter` and `POST /v1/unload_lora_adapter`, as vLLM has them.

use std::sync::Arc;

use axum::extract::State;
use tokio::time::Instant;

use super::answer::{self, Body};
use crate::openai::{ApiError, ErrorKind, LoadAdapterRequest, UnloadAdapterRequest};
use crate::state::AppState;

/// Serves the adapter in a directory under a new name.
pub(super) async fn load(State(state): State<Arc<AppState>>, body: Body) -> Result<String, ApiError> {
    let deadline = Instant::now() + state.limits.request_timeout;
    let loader = state.adapters()?.clone();
    let LoadAdapterRequest { name, path } = LoadAdapterRequest::parse(&answer::bytes(&state, body)?)?;
    let models = state.models()?;
    let base = models.first().ok_or_else(|| ApiError::new(ErrorKind::NotReady, "no model is served"))?.engine.clone();
    let (own_name, refused) = (name.clone(), |error: anyhow::Error| {
        ApiError::of_field(ErrorKind::InvalidValue, "lora_path", format!("`lora_path`: {error:#}"))
    });
    let open = move || {
        let model = loader.open(&own_name, &path).map_err(refused)?;
        loader.serve(model, &base).map_err(refused)
    };
    state.add(answer::aside(deadline, open).await?)?;
    tracing::info!(%name, "adapter loaded");
    Ok(format!("Success: LoRA adapter '{name}' added successfully."))
}

/// Serves an adapter no longer.
pub(super) async fn unload(State(state): State<Arc<AppState>>, body: Body) -> Result<String, ApiError> {
    state.adapters()?;
    let UnloadAdapterRequest { name } = UnloadAdapterRequest::parse(&answer::bytes(&state, body)?)?;
    state.remove(&name)?;
    tracing::info!(%name, "adapter unloaded");
    Ok(format!("Success: LoRA adapter '{name}' removed successfully."))
}
