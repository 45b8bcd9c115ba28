//! `GET /v1/models`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;

use crate::openai::{ApiError, ModelCard, ModelList};
use crate::state::AppState;

/// The served models.
pub(super) async fn models(State(state): State<Arc<AppState>>) -> Result<Json<ModelList>, ApiError> {
    let served = state.served()?;
    let card = ModelCard {
        id: served.name.clone(),
        object: "model",
        created: served.created,
        owned_by: "orpo-serve",
        max_model_len: served.engine.context_length(),
    };
    Ok(Json(ModelList { object: "list", data: vec![card] }))
}
