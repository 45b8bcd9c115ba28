//! `GET /v1/models`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;

use crate::openai::{ApiError, ModelCard, ModelList};
use crate::state::AppState;

/// The served models, each under every name that it has.
pub(super) async fn models(State(state): State<Arc<AppState>>) -> Result<Json<ModelList>, ApiError> {
    let cards = state.models()?.iter().flat_map(|served| {
        served.names().map(|name| ModelCard {
            id: name.clone(),
            object: "model",
            created: served.created,
            owned_by: "orpo-serve",
            root: served.parent.as_ref().unwrap_or(&served.name).clone(),
            parent: served.parent.clone(),
            max_model_len: served.engine.context_length(),
            lineage: served.lineage.clone(),
        })
    });
    Ok(Json(ModelList { object: "list", data: cards.collect() }))
}
