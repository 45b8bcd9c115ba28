//! Fewer points that look the same: of every stretch of a series its lowest and its highest point stay.

/// At most `most` points of a series in the order of x (but never fewer than four). The first and the last stay, and so
/// does every extreme, so that a spike of a single step is still seen.
pub fn decimate(points: &[(f64, f64)], most: usize) -> Vec<(f64, f64)> {
    let most = most.max(4);
    if points.len() <= most {
        return points.to_vec();
    }
    let inner = &points[1..points.len() - 1];
    let stretches = (most - 2) / 2;
    let mut kept = vec![points[0]];
    for stretch in 0..stretches {
        let part = &inner[stretch * inner.len() / stretches..(stretch + 1) * inner.len() / stretches];
        let by_value = |index: &usize, other: &usize| part[*index].1.total_cmp(&part[*other].1);
        let (Some(low), Some(high)) = ((0..part.len()).min_by(by_value), (0..part.len()).max_by(by_value)) else {
            continue;
        };
        kept.push(part[low.min(high)]);
        if low != high {
            kept.push(part[low.max(high)]);
        }
    }
    kept.push(points[points.len() - 1]);
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_spike_of_one_step_survives() {
        let points: Vec<_> = (0..10_000).map(|step| (f64::from(step), if step == 4711 { 99.0 } else { 1.0 })).collect();
        let kept = decimate(&points, 200);
        assert!(kept.len() <= 200, "{}", kept.len());
        assert!(kept.contains(&(4711.0, 99.0)));
        assert_eq!((kept[0], kept[kept.len() - 1]), (points[0], points[9999]));
    }

    #[test]
    fn a_short_series_is_left_alone() {
        let points = [(0.0, 1.0), (1.0, 2.0), (2.0, 0.0)];
        assert_eq!(decimate(&points, 3), points);
        assert_eq!(decimate(&[], 10), []);
    }

    proptest! {
        #[test]
        fn bounded_in_order_and_with_the_extremes(values in prop::collection::vec(-1e3f64..1e3, 0..400), most in 4usize..60) {
            let points: Vec<_> = values.iter().enumerate().map(|(x, &y)| (x as f64, y)).collect();
            let kept = decimate(&points, most);
            prop_assert!(kept.len() <= most.max(4) || points.len() <= most);
            prop_assert!(kept.windows(2).all(|pair| pair[0].0 < pair[1].0));
            prop_assert!(kept.iter().all(|point| points.contains(point)));
            let extreme = |points: &[(f64, f64)], pick: fn(f64, f64) -> f64| points.iter().map(|p| p.1).reduce(pick);
            prop_assert_eq!(extreme(&kept, f64::max), extreme(&points, f64::max));
            prop_assert_eq!(extreme(&kept, f64::min), extreme(&points, f64::min));
        }
    }
}
