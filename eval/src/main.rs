//! `orpo-eval`: see [`orpo_eval::cli`].

fn main() -> std::process::ExitCode {
    orpo_eval::cli::main(std::env::args_os())
}
