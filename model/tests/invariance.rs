//! A row's logits are bit-identical whatever surrounds it and however it is reached.

mod support;

use orpo_model::infer::Inference;
use orpo_model::kv::{PAGE, Table};
use support::*;

const LENGTH: usize = 83;

fn models() -> impl Iterator<Item = (String, Inference, Vec<u32>)> {
    configs().into_iter().enumerate().map(|(i, json)| {
        let model = random_model(&json);
        let ids = random_ids(LENGTH, model.config().vocab_size, i as u64 + 50);
        (format!("model {i}, {}", json["model_type"]), model, ids)
    })
}

#[test]
fn pieces_of_any_size_and_released_pages() {
    for (name, model, ids) in models() {
        let expected = logits(&model, &ids);
        assert!(expected.iter().all(|x| x.is_finite()) && distance(&expected[..97], &expected[97..194]) > 0.01);
        for releases in [false, true] {
            let mut runner = Runner { releases, ..Runner::new(&model) };
            for piece in [1, 7, 16, 17, 40] {
                let found = runner.logits(&ids, piece, None);
                assert_same_bits(&found, &expected, &format!("{name}, pieces of {piece}, releases: {releases}"));
            }
        }
    }
}

#[test]
fn beside_other_sequences_in_any_order() {
    for (name, model, ids) in models() {
        let vocab_size = model.config().vocab_size;
        let expected = logits(&model, &ids);
        for order in 0..4 {
            let mut runner = Runner::new(&model);
            let mut own = runner.sequence(&ids);
            let others = [1, 40, 5, 16, 90, 2].map(|length| random_ids(length + order, vocab_size, length as u64));
            let mut others = others.map(|ids| runner.sequence(&ids));
            // Some of the others are under way already, each at a place of its own.
            for (i, other) in others.iter_mut().enumerate().skip(1) {
                let count = (i * 3).min(other.ids.len() - 1);
                runner.step(&mut [(other, count)]);
            }
            let mut sizes = [9, 1, 30, 16].iter().cycle();
            while own.done < ids.len() {
                let count = (*sizes.next().unwrap()).min(ids.len() - own.done);
                let mut step: Vec<(&mut Sequence, usize)> = Vec::new();
                for (i, other) in others.iter_mut().enumerate() {
                    let left = other.ids.len() - other.done;
                    step.extend((left > 0).then_some((other, left.min(1 + (i + order) % 4 * 5))));
                }
                let at = step.len() * order / 3;
                step.insert(at, (&mut own, count));
                runner.step(&mut step);
            }
            assert_same_bits(&own.logits, &expected, &format!("{name}, order {order}"));
        }
    }
}

#[test]
fn one_thread_or_more() {
    for (name, model, _) in models() {
        let vocab_size = model.config().vocab_size;
        let all: Vec<Vec<u32>> = (0..6).map(|i| random_ids(60 + i, vocab_size, i as u64)).collect();
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let mut runner = Runner::new(&model);
                let mut sequences: Vec<Sequence> = all.iter().map(|ids| runner.sequence(ids)).collect();
                runner.step(&mut sequences.iter_mut().map(|sequence| (sequence, 60)).collect::<Vec<_>>());
                sequences.into_iter().flat_map(|sequence| sequence.logits).collect::<Vec<f32>>()
            })
        };
        let expected = run(1);
        for threads in [2, 3] {
            assert_same_bits(&run(threads), &expected, &format!("{name}, {threads} threads"));
        }
    }
}

#[test]
fn scattered_pages_with_what_others_left_in_them() {
    for (name, model, ids) in models() {
        let expected = logits(&model, &ids);
        let mut runner = Runner::new(&model);
        // Others leave their keys and values, and even nonsense, in pages that come back in another order.
        let mut held: Vec<Table> = Vec::new();
        for seed in 0..5 {
            let mut other = runner.sequence(&random_ids(50, model.config().vocab_size, seed));
            runner.step(&mut [(&mut other, 50)]);
            held.push(other.table);
        }
        for i in [1, 3, 0, 4, 2] {
            held[i].clear(&mut runner.pages);
        }
        let mut sequence = runner.sequence(&ids);
        assert!(sequence.table.grow(ids.len(), &mut runner.pages));
        let pages: Vec<_> = (0..ids.len() / PAGE).map(|index| sequence.table.page(0, index).unwrap()).collect();
        assert!(!pages.is_sorted() && !pages.iter().rev().is_sorted());
        runner.step(&mut [(&mut sequence, 30)]);
        runner.step(&mut [(&mut sequence, ids.len() - 30)]);
        assert_same_bits(&sequence.logits, &expected, &name);
    }
}

#[test]
fn a_shared_prefix_stands_for_computing_it() {
    for (name, model, ids) in models() {
        let expected = logits(&model, &ids);
        let vocab_size = model.config().vocab_size;
        let mut runner = Runner::new(&model);
        let mut first = runner.sequence(&ids);
        runner.step(&mut [(&mut first, 70)]);
        let mut second = runner.sequence(&ids);
        for index in 0..3 {
            second.table.adopt(&first.table.pages_at(index), &mut runner.pages);
        }
        second.done = 3 * PAGE;
        first.table.clear(&mut runner.pages);
        runner.step(&mut [(&mut second, ids.len() - 3 * PAGE)]);
        assert_same_bits(&second.logits, &expected[3 * PAGE * vocab_size..], &name);
    }
}
