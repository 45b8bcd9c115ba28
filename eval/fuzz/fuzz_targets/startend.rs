#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| orpo_eval_fuzz::check_family("startend", data));
