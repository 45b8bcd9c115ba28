use candle_core::Device;
use candle_core::quantized::{GgmlDType, QStorage, QTensor};

use super::drive::{Finish, Weights, drive};
use super::isa::Isa;
use super::{Matrix, Storage, product, product_unpacked};

/// Numbers that look like weights: a fixed sequence, from -1 to 1.
fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..count)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

fn matrix(outputs: usize, inputs: usize, storage: Storage, seed: u64) -> Matrix {
    let values = numbers(outputs * inputs, seed);
    Matrix::quantized(outputs, inputs, storage, |output, row| {
        row.copy_from_slice(&values[output * inputs..][..inputs]);
    })
}

fn rows_of(matrix: &Matrix) -> Vec<f32> {
    let mut rows = vec![0.0; matrix.outputs() * matrix.inputs()];
    for (output, row) in rows.chunks_exact_mut(matrix.inputs()).enumerate() {
        matrix.read_row(output, row);
    }
    rows
}

/// The definition, word for word.
fn definition(x: &[f32], w: &[f32], inputs: usize, bias: Option<&[f32]>, y: &mut [f32], accumulate: bool) {
    let outputs = w.len() / inputs;
    for (x, y) in x.chunks_exact(inputs).zip(y.chunks_exact_mut(outputs)) {
        for (output, y) in y.iter_mut().enumerate() {
            let weights = &w[output * inputs..][..inputs];
            let mut chain = x.iter().zip(weights).fold(0.0f32, |chain, (x, w)| x.mul_add(*w, chain));
            if let Some(bias) = bias {
                chain += bias[output];
            }
            *y = if accumulate { chain + *y } else { chain };
        }
    }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Compares every instruction set, one and three threads, packed and unpacked, with the definition.
fn compare(rows: usize, matrix: &Matrix) {
    let (outputs, inputs) = (matrix.outputs(), matrix.inputs());
    let w = rows_of(matrix);
    let x = numbers(rows * inputs, 7);
    let bias = numbers(outputs, 8);
    for (bias, accumulate) in [(None, false), (Some(&bias[..]), false), (None, true), (Some(&bias[..]), true)] {
        let before = numbers(rows * outputs, 9);
        let mut expected = before.clone();
        definition(&x, &w, inputs, bias, &mut expected, accumulate);
        for threads in [1, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
            for isa in Isa::available() {
                for weights in [Weights::Packed(matrix), Weights::Rows { values: &w, outputs, inputs }] {
                    let mut y = before.clone();
                    pool.install(|| drive(isa, &x, weights, Finish { bias, accumulate }, &mut y));
                    let storage = matrix.storage();
                    assert!(
                        bits(&y) == bits(&expected),
                        "{isa:?}, {threads} threads, {rows} rows, ({outputs}, {inputs}) {storage:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn any_number_of_rows_gives_the_bits_of_the_definition() {
    let matrix = matrix(37, 19, Storage::F32, 1);
    for rows in 0..=70 {
        compare(rows, &matrix);
    }
}

#[test]
fn any_shape_gives_the_bits_of_the_definition() {
    for inputs in [1, 3, 16, 17, 64, 300, 513, 1100] {
        for outputs in [1, 16, 17, 130] {
            for rows in [1, 2, 5, 13] {
                compare(rows, &matrix(outputs, inputs, Storage::F32, 2));
            }
        }
    }
}

#[test]
fn every_storage_gives_the_bits_of_the_definition() {
    for storage in Storage::ALL {
        let inputs = if storage.block() == 1 { 300 } else { 3 * storage.block() };
        for outputs in [1, 37, 144] {
            let matrix = matrix(outputs, inputs, storage, 3);
            assert_eq!(matrix.storage(), storage);
            for rows in [1, 2, 3, 4, 5, 12, 25] {
                compare(rows, &matrix);
            }
        }
    }
}

#[test]
fn large_products_are_shared_among_threads_with_the_same_bits() {
    compare(1, &matrix(1001, 544, Storage::Q8_0, 4));
    compare(21, &matrix(200, 96, Storage::F32, 4));
    compare(530, &matrix(40, 70, Storage::F32, 4));
}

#[test]
fn not_a_number_and_infinity_reach_their_own_row_and_output_only() {
    let (outputs, inputs) = (20, 40);
    let mut w = numbers(outputs * inputs, 1);
    w[3 * inputs + 5] = f32::INFINITY;
    let mut x = numbers(2 * inputs, 2);
    x[inputs + 7] = f32::NAN;
    let bytes: Vec<u8> = w.iter().flat_map(|value| value.to_le_bytes()).collect();
    let matrix = Matrix::from_rows(outputs, inputs, Storage::F32, &bytes);
    let mut y = vec![0.0; 2 * outputs];
    product(&x, &matrix, None, &mut y, false);
    for (output, value) in y[..outputs].iter().enumerate() {
        assert_eq!(value.is_infinite(), output == 3, "output {output}: {value}");
    }
    assert!(y[outputs..].iter().all(|value| value.is_nan()));
}

#[test]
fn blocks_are_widened_as_candle_dequantises_them() {
    for (storage, dtype) in [
        (Storage::Bf16, GgmlDType::BF16),
        (Storage::F16, GgmlDType::F16),
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
        let (outputs, inputs) = (19, 2 * 256);
        // Any bits are valid quants and scales; only the f16 scales must not be NaN, which no comparison of bits survives.
        let mut bytes: Vec<u8> = numbers(outputs * inputs / storage.block() * storage.block_bytes(), 5)
            .iter()
            .map(|v| (v * 1e4) as i32 as u8)
            .collect();
        let halves = if storage.block() == 1 { &[0][..] } else { storage.fields().halves };
        for block in bytes.chunks_exact_mut(storage.block_bytes()) {
            halves.iter().for_each(|half| block[half + 1] &= 0xbf);
        }
        let data = QStorage::from_data((&bytes[..]).into(), &Device::Cpu, dtype).expect("blocks");
        let tensor = QTensor::new(data, (outputs, inputs)).expect("a shape");
        let expected: Vec<f32> =
            tensor.dequantize(&Device::Cpu).and_then(|t| t.flatten_all()?.to_vec1()).expect("numbers");
        let matrix = Matrix::from_blocks(outputs, inputs, storage, &bytes);
        let rows = rows_of(&matrix);
        let wrong = rows.iter().zip(&expected).position(|(own, other)| own.to_bits() != other.to_bits());
        assert_eq!(wrong.map(|at| (at, rows[at], expected[at])), None, "{storage:?}");
    }
}

#[test]
fn every_instruction_set_widens_alike() {
    // The rows are read with the best; `compare` multiplies with each, and a unit vector shows one weight at a time.
    for storage in Storage::ALL {
        let inputs = storage.block().max(8);
        let matrix = matrix(16, inputs, storage, 6);
        let w = rows_of(&matrix);
        let mut unit = vec![0.0; inputs * inputs];
        (0..inputs).for_each(|k| unit[k * inputs + k] = 1.0);
        for isa in Isa::available() {
            let mut y = vec![0.0; inputs * 16];
            drive(isa, &unit, Weights::Packed(&matrix), Finish { bias: None, accumulate: false }, &mut y);
            for k in 0..inputs {
                for output in 0..16 {
                    assert_eq!(y[k * 16 + output], w[output * inputs + k], "{isa:?} {storage:?} ({output}, {k})");
                }
            }
        }
    }
}

#[test]
fn memory_is_that_of_the_source() {
    for storage in Storage::ALL {
        let matrix = matrix(32, 512, storage, 1);
        assert_eq!(matrix.bytes(), 32 * 512 / storage.block() * storage.block_bytes(), "{storage:?}");
    }
}

#[test]
fn inputs_that_the_blocks_do_not_divide_fall_back() {
    assert_eq!(Storage::Q4K.fitting(512), Storage::Q4K);
    assert_eq!(Storage::Q4K.fitting(288), Storage::Q4_1);
    assert_eq!(Storage::Q2K.fitting(288), Storage::Q4_0);
    assert_eq!(Storage::Q5K.fitting(288), Storage::Q5_0);
    assert_eq!(Storage::Q6K.fitting(288), Storage::Q5_1);
    assert_eq!(Storage::Q8_0.fitting(20), Storage::F32);
    assert_eq!(Storage::Bf16.fitting(20), Storage::Bf16);
    assert_eq!(matrix(3, 20, Storage::Q8_0, 1).storage(), Storage::F32);
}

#[test]
fn the_reader_s_error_comes_back() {
    let mut read = 0;
    let result = Matrix::read(40, 4, Storage::F32, |range, bytes| {
        assert_eq!(bytes.len(), 16 * range.len());
        read += 1;
        if range.start == 32 { Err("no more") } else { Ok(()) }
    });
    assert_eq!((result.err(), read), (Some("no more"), 3));
}

#[test]
fn unpacked_weights_give_the_same_bits() {
    let (rows, outputs, inputs) = (9, 50, 33);
    let (x, w) = (numbers(rows * inputs, 1), numbers(outputs * inputs, 2));
    let bytes: Vec<u8> = w.iter().flat_map(|value| value.to_le_bytes()).collect();
    let (mut packed, mut unpacked) = (vec![0.0; rows * outputs], vec![0.0; rows * outputs]);
    product(&x, &Matrix::from_rows(outputs, inputs, Storage::F32, &bytes), None, &mut packed, false);
    product_unpacked(&x, &w, (outputs, inputs), None, &mut unpacked, false);
    assert_eq!(bits(&packed), bits(&unpacked));
}
