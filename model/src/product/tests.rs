use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};

use super::*;

const ALL: [Storage; 13] = [
    Storage::F32,
    Storage::Bf16,
    Storage::F16,
    Storage::Q4_0,
    Storage::Q4_1,
    Storage::Q5_0,
    Storage::Q5_1,
    Storage::Q8_0,
    Storage::Q2K,
    Storage::Q3K,
    Storage::Q4K,
    Storage::Q5K,
    Storage::Q6K,
];

fn random(n: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

fn matrix(outputs: usize, inputs: usize, storage: Storage) -> Matrix {
    let rows = random(outputs * inputs, 7);
    let bytes: Vec<u8> = match storage {
        Storage::F32 => rows.iter().flat_map(|w| w.to_le_bytes()).collect(),
        Storage::Bf16 => rows.iter().flat_map(|w| half::bf16::from_f32(*w).to_le_bytes()).collect(),
        Storage::F16 => rows.iter().flat_map(|w| half::f16::from_f32(*w).to_le_bytes()).collect(),
        _ => {
            let copy = |output: usize, to: &mut [f32]| to.copy_from_slice(&rows[output * inputs..][..inputs]);
            return Matrix::quantized(outputs, inputs, storage, copy);
        }
    };
    Matrix::from_floats(outputs, inputs, storage, &bytes)
}

fn row(w: &Matrix, output: usize) -> Vec<f32> {
    let mut row = vec![f32::NAN; w.inputs()];
    w.read_row(output, &mut row);
    row
}

/// By the definition.
fn slow(x: &[f32], w: &Matrix, bias: Option<&[f32]>, y: &mut [f32], accumulate: bool) {
    let rows: Vec<Vec<f32>> = (0..w.outputs()).map(|output| row(w, output)).collect();
    for (x, y) in x.chunks(w.inputs()).zip(y.chunks_mut(w.outputs())) {
        for (o, y) in y.iter_mut().enumerate() {
            let mut sum = rows[o].iter().zip(x).fold(0f32, |sum, (w, x)| x.mul_add(*w, sum));
            if let Some(bias) = bias {
                sum += bias[o];
            }
            *y = if accumulate { *y + sum } else { sum };
        }
    }
}

#[test]
fn every_storage_and_instruction_set_gives_the_bits_of_the_definition() {
    for storage in ALL {
        let shapes: &[(usize, usize)] = match storage.block() {
            1 => &[(1, 1), (16, 8), (17, 9), (70, 300), (33, 7), (5, 513)],
            32 => &[(1, 32), (17, 96), (70, 288)],
            _ => &[(1, 256), (17, 512), (70, 768)],
        };
        for (outputs, inputs) in shapes {
            let w = matrix(*outputs, *inputs, storage);
            for rows in [1, 2, 3, 4, 5, 7, 8, 9, 12, 13, 17, 24, 70] {
                let x = random(rows * inputs, rows as u32);
                let bias = random(*outputs, 3);
                for (bias, accumulate) in [(None, false), (Some(&bias[..]), true)] {
                    let before = random(rows * outputs, 5);
                    let mut expected = before.clone();
                    slow(&x, &w, bias, &mut expected, accumulate);
                    for isa in Isa::all() {
                        let mut found = before.clone();
                        products_with(*isa, &x, [Product { w: &w, bias, y: &mut found, accumulate }]);
                        let same = found.iter().zip(&expected).all(|(a, b)| a.to_bits() == b.to_bits());
                        assert!(same, "{storage:?}, {isa:?}, {rows} rows, {outputs} x {inputs}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_row_depends_on_itself_alone_whatever_the_threads() {
    let w = matrix(200, 256, Storage::Q4K);
    let x = random(40 * 256, 1);
    let mut expected = vec![0f32; 40 * 200];
    product(&x, &w, None, &mut expected, false);
    for threads in [1, 2, 3] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        for piece in [1, 3, 11, 40] {
            let mut found = vec![0f32; 40 * 200];
            pool.install(|| {
                for (x, y) in x.chunks(piece * 256).zip(found.chunks_mut(piece * 200)) {
                    product(x, &w, None, y, false);
                }
            });
            assert_eq!(found, expected, "{threads} threads, pieces of {piece}");
        }
    }
}

#[test]
fn products_of_the_same_rows_are_the_same_together_and_one_by_one() {
    let matrices = [matrix(200, 256, Storage::Q8_0), matrix(33, 256, Storage::F32), matrix(64, 256, Storage::Bf16)];
    for rows in [1, 7, 40] {
        let x = random(rows * 256, 1);
        let bias = random(33, 2);
        let expected = matrices.each_ref().map(|w| {
            let mut y = vec![1f32; rows * w.outputs()];
            product(&x, w, (w.outputs() == 33).then_some(&bias), &mut y, w.outputs() == 64);
            y
        });
        let mut found = matrices.each_ref().map(|w| vec![1f32; rows * w.outputs()]);
        let [a, b, c] = found.each_mut();
        products(
            &x,
            [
                Product { w: &matrices[0], bias: None, y: a, accumulate: false },
                Product { w: &matrices[1], bias: Some(&bias), y: b, accumulate: false },
                Product { w: &matrices[2], bias: None, y: c, accumulate: true },
            ],
        );
        assert_eq!(found, expected, "{rows} rows");
    }
}

#[test]
fn integers_mean_what_candle_takes_them_for() {
    for (storage, kind) in [
        (Storage::Q4_0, GgmlDType::Q4_0),
        (Storage::Q4_1, GgmlDType::Q4_1),
        (Storage::Q5_0, GgmlDType::Q5_0),
        (Storage::Q5_1, GgmlDType::Q5_1),
        (Storage::Q8_0, GgmlDType::Q8_0),
        (Storage::Q2K, GgmlDType::Q2K),
        (Storage::Q3K, GgmlDType::Q3K),
        (Storage::Q4K, GgmlDType::Q4K),
        (Storage::Q5K, GgmlDType::Q5K),
        (Storage::Q6K, GgmlDType::Q6K),
    ] {
        let (outputs, inputs) = (21, 512);
        let rows = Tensor::from_vec(random(outputs * inputs, 7), (outputs, inputs), &Device::Cpu).unwrap();
        let quantised = QTensor::quantize(&rows, kind).unwrap();
        let expected: Vec<Vec<f32>> = quantised.dequantize(&Device::Cpu).unwrap().to_vec2().unwrap();
        let w = Matrix::from_blocks(outputs, inputs, storage, &quantised.data().unwrap());
        for (output, expected) in expected.iter().enumerate() {
            for (found, expected) in row(&w, output).iter().zip(expected) {
                // Candle rounds the product and the difference of types with a least value one after the other.
                assert!((found - expected).abs() <= 4e-7, "{storage:?}: {found}, not {expected}");
            }
        }
        let padded = outputs.next_multiple_of(16);
        // A factor takes a byte here, and in a file 4 bits in this type, 6 bits in others.
        let growth = if storage == Storage::Q2K { 1.2 } else { 1.04 };
        assert!(w.bytes() as f64 <= growth * storage.bytes(padded * inputs) as f64, "{storage:?}: {} bytes", w.bytes());
        let same = matrix(outputs, inputs, storage);
        assert!((0..outputs).all(|output| row(&same, output) == row(&w, output)), "{storage:?}");
    }
}

#[test]
fn floats_are_read_as_they_are() {
    for (storage, exact) in [(Storage::F32, 0.0), (Storage::Bf16, 1.0 / 256.0), (Storage::F16, 1.0 / 2048.0)] {
        let (outputs, inputs) = (19, 13);
        let w = matrix(outputs, inputs, storage);
        let expected = random(outputs * inputs, 7);
        for (output, expected) in expected.chunks(inputs).enumerate() {
            assert!(row(&w, output).iter().zip(expected).all(|(w, e)| (w - e).abs() <= e.abs() * exact + 1e-9));
        }
    }
}

#[test]
fn what_is_not_finite_stays_in_its_row_and_column() {
    let mut rows = random(20 * 16, 7);
    rows[3 * 16 + 2] = f32::NAN;
    let bytes: Vec<u8> = rows.iter().flat_map(|w| w.to_le_bytes()).collect();
    let w = Matrix::from_floats(20, 16, Storage::F32, &bytes);
    for rows in [2, 30] {
        let mut x = random(rows * 16, 1);
        x[16] = f32::INFINITY;
        let mut y = vec![0f32; rows * 20];
        product(&x, &w, None, &mut y, false);
        for (at, y) in y.iter().enumerate() {
            let (row, output) = (at / 20, at % 20);
            assert_eq!(y.is_nan(), output == 3, "{row} {output}");
            assert_eq!(y.is_finite(), output != 3 && row != 1, "{row} {output}");
        }
    }
}

#[test]
fn rows_that_do_not_fit_a_type_get_its_neighbour() {
    assert_eq!(Storage::Q4K.fitting(512), Storage::Q4K);
    assert_eq!(Storage::Q4K.fitting(576), Storage::Q4_1);
    assert_eq!(Storage::Q6K.fitting(576), Storage::Q5_1);
    assert_eq!(Storage::Q3K.fitting(20), Storage::F32);
    assert_eq!(Storage::Q8_0.fitting(40), Storage::F32);
    assert_eq!(Storage::Bf16.fitting(41), Storage::Bf16);
}
