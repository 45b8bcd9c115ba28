//! Two conversations, or a prompt and two replies, as one pair.

use orpo_chat::Message;

use super::RowError;
use crate::data::preference::{gives_instructions, speaks_for_model};
use crate::data::{Dropped, Preference, Text};

/// A prompt and two replies. Replies that repeat the whole prompt are cut to what follows it.
pub(super) fn explicit(prompt: Vec<Message>, chosen: Vec<Message>, rejected: Vec<Message>) -> Preference {
    let repeated = chosen.starts_with(&prompt) && rejected.starts_with(&prompt);
    let reply = |mut turns: Vec<Message>| Text::Chat(if repeated { turns.split_off(prompt.len()) } else { turns });
    let (chosen, rejected) = (reply(chosen), reply(rejected));
    Preference::new(Text::Chat(prompt), chosen, rejected)
}

/// Two conversations with the prompt inside: what they have in common up to the model's first own words. They must
/// differ in the model's turns alone.
pub(super) fn implicit(mut chosen: Vec<Message>, mut rejected: Vec<Message>) -> Result<Preference, RowError> {
    let (Some(last_chosen), Some(last_rejected)) = (chosen.last(), rejected.last()) else {
        return Err(Dropped::EmptySide.into());
    };
    if !speaks_for_model(&last_chosen.role) || !speaks_for_model(&last_rejected.role) {
        return Err(Dropped::WrongRole.into());
    }
    if chosen == rejected {
        return Err(Dropped::EqualSides.into());
    }
    let mut shared = chosen.iter().zip(&rejected).take_while(|(a, b)| a == b).count();
    while shared > 0 && speaks_for_model(&chosen[shared - 1].role) {
        shared -= 1;
    }
    if chosen[shared..].iter().chain(&rejected[shared..]).any(|turn| gives_instructions(&turn.role)) {
        return Err(Dropped::PromptsDiffer.into());
    }
    let (chosen_reply, rejected_reply) = (chosen.split_off(shared), rejected.split_off(shared));
    Ok(explicit(chosen, chosen_reply, rejected_reply))
}

/// A question after earlier turns, and two replies.
pub(super) fn question(mut history: Vec<Message>, question: &str, chosen: &str, rejected: &str) -> Preference {
    if !question.is_empty() {
        history.push(Message::user(question));
    }
    explicit(history, vec![Message::assistant(chosen)], vec![Message::assistant(rejected)])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `u:text a:text` as turns.
    fn turns(text: &str) -> Vec<Message> {
        let roles = [("u", "user"), ("a", "assistant"), ("s", "system"), ("t", "tool")];
        text.split_whitespace()
            .map(|turn| {
                let (role, content) = turn.split_once(':').unwrap();
                Message::new(roles.iter().find(|(short, _)| *short == role).unwrap().1, content)
            })
            .collect()
    }

    #[test]
    fn the_prompt_is_what_both_conversations_share() {
        for (chosen, rejected, prompt_len) in [
            ("u:1 a:2", "u:1 a:3", 1),
            ("s:0 u:1 a:2 u:3 a:4", "s:0 u:1 a:2 u:3 a:5", 4),
            // A call that both sides make is prompt where a result follows, and reply where the model goes on.
            ("u:1 a:call t:r a:2", "u:1 a:call t:r a:3", 3),
            ("u:1 a:same a:2", "u:1 a:same a:3", 1),
            ("u:1 a:2", "u:1 a:call t:r a:2", 1),
        ] {
            let pair = implicit(turns(chosen), turns(rejected)).unwrap();
            assert_eq!(pair.prompt, Text::Chat(turns(chosen)[..prompt_len].to_vec()));
            assert_eq!(pair.chosen, Text::Chat(turns(chosen)[prompt_len..].to_vec()));
            assert_eq!(pair.rejected, Text::Chat(turns(rejected)[prompt_len..].to_vec()));
        }
    }

    #[test]
    fn what_is_no_pair_has_a_reason() {
        for (chosen, rejected, reason) in [
            ("u:1 a:2", "", Dropped::EmptySide),
            ("u:1 a:2", "u:1 a:2", Dropped::EqualSides),
            ("u:1 a:2", "u:0 a:3", Dropped::PromptsDiffer),
            ("u:1 a:2 u:3 a:4", "u:1 a:0 u:3 a:5", Dropped::PromptsDiffer),
            ("u:1 a:2", "u:1 a:2 u:3 a:4", Dropped::PromptsDiffer),
            ("u:1 a:2", "u:1 a:2 u:3", Dropped::WrongRole),
        ] {
            assert_eq!(implicit(turns(chosen), turns(rejected)).unwrap_err(), RowError::Unusable(reason));
        }
    }

    #[test]
    fn a_repeated_prompt_is_cut() {
        let pair = explicit(turns("u:1"), turns("u:1 a:2"), turns("u:1 a:3"));
        assert_eq!(pair, explicit(turns("u:1"), turns("a:2"), turns("a:3")));
    }
}
