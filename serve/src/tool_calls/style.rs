//! The ways in which model families write calls.

/// How a model family writes calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// `<tool_call>{"name", "arguments"}</tool_call>`, as Hermes and Qwen do.
    Hermes,
    /// `[TOOL_CALLS][{"name", "arguments"}, ...]`, as Mistral does, or `[TOOL_CALLS]name[ARGS]{...}`, as its newer models do.
    Mistral,
    /// The whole reply is `{"name", "parameters"}`, several with `;` between them, as Llama 3 does, or a list of them.
    Bare,
}

impl Style {
    /// The style that a chat template teaches.
    pub fn of(template: &str) -> Self {
        let styles = [Self::Hermes, Self::Mistral];
        let taught = |style: &Self| style.marker().is_some_and(|marker| template.contains(marker));
        styles.into_iter().find(taught).unwrap_or(Self::Bare)
    }

    /// What announces a call. In some vocabularies it is a special token.
    pub fn marker(self) -> Option<&'static str> {
        match self {
            Self::Hermes => Some("<tool_call>"),
            Self::Mistral => Some("[TOOL_CALLS]"),
            Self::Bare => None,
        }
    }

    /// The key of the arguments in a call.
    pub(super) fn arguments(self) -> &'static str {
        if self == Self::Bare { "parameters" } else { "arguments" }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_style_is_the_template_s() {
        assert_eq!(Style::of("... <tool_call>\\n{...}\\n</tool_call>"), Style::Hermes);
        assert_eq!(Style::of("{{- '[TOOL_CALLS] [' }}"), Style::Mistral);
        assert_eq!(Style::of("Respond in the format {\"name\": ..., \"parameters\": ...}"), Style::Bare);
    }
}
