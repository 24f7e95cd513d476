//! The text a `/metrics` page is made of, read as numbers. Pure.

/// Every sample of a page, by name and labels as printed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Numbers(Vec<(String, f64)>);

impl Numbers {
    /// Reads the Prometheus exposition format; what is no sample is passed over.
    pub(crate) fn parse(text: &str) -> Self {
        let samples = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
            // Label values may hold spaces, the value after them does not; timestamps are not used by anyone here.
            let (name, value) = line.rsplit_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        });
        Self(samples.collect())
    }

    /// The sum over all label sets; `None` when there is no such sample.
    pub(crate) fn sum(&self, name: &str) -> Option<f64> {
        let mut of_name = self.named(name).map(|(_, value)| value).peekable();
        of_name.peek()?;
        Some(of_name.sum())
    }

    /// An upper bound of the quantile `q` of a histogram's observations since `before`, for the samples whose labels
    /// contain `label`; `None` without observations, or when it lies in the last, open bucket.
    pub(crate) fn quantile_since(
        &self,
        before: &Self,
        histogram: &str,
        label: &str,
        q: f64,
    ) -> Option<f64> {
        let bucket = format!("{histogram}_bucket");
        let of = |numbers: &Self| -> Vec<(f64, f64)> {
            let with = numbers.named(&bucket).filter(|(labels, _)| labels.contains(label));
            with.filter_map(|(labels, count)| Some((bound(labels)?, count))).collect()
        };
        let (old, new) = (of(before), of(self));
        let earlier =
            |bound: f64| old.iter().find(|(b, _)| *b == bound).map_or(0.0, |(_, count)| *count);
        let total = new.iter().map(|(bound, count)| count - earlier(*bound)).fold(0.0, f64::max);
        let holds = |(bound, count): &&(f64, f64)| count - earlier(*bound) >= total * q;
        let found = new.iter().find(holds).map(|(bound, _)| *bound);
        found.filter(|bound| total > 0.0 && bound.is_finite())
    }

    fn named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (&'a str, f64)> {
        self.0.iter().filter_map(move |(sample, value)| {
            let labels = sample.strip_prefix(name)?;
            (labels.is_empty() || labels.starts_with('{')).then_some((labels, *value))
        })
    }
}

/// The upper bound in `{…,le="0.5"}`.
fn bound(labels: &str) -> Option<f64> {
    let text = labels.split("le=\"").nth(1)?.split('"').next()?;
    if text == "+Inf" { Some(f64::INFINITY) } else { text.parse().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "# HELP x a b\n# TYPE x counter\nx{kind=\"a b\"} 3\nx{kind=\"c\"} 4\nx_total 9\n\
        h_bucket{since=\"w\",le=\"1.0\"} 98\nh_bucket{since=\"w\",le=\"2.0\"} 99\nh_bucket{since=\"w\",le=\"+Inf\"} 100\n\
        h_bucket{since=\"z\",le=\"1.0\"} 0\n";

    #[test]
    fn samples_are_added_up_by_name() {
        let page = Numbers::parse(PAGE);
        assert_eq!(page.sum("x"), Some(7.0));
        assert_eq!(page.sum("x_total"), Some(9.0));
        assert_eq!(page.sum("y"), None);
    }

    #[test]
    fn quantiles_are_upper_bounds_of_what_came_since() {
        let (none, page) = (Numbers::default(), Numbers::parse(PAGE));
        assert_eq!(page.quantile_since(&none, "h", "\"w\"", 0.5), Some(1.0));
        assert_eq!(page.quantile_since(&none, "h", "\"w\"", 0.99), Some(2.0));
        assert_eq!(page.quantile_since(&none, "h", "\"w\"", 1.0), None, "beyond every bound");
        assert_eq!(page.quantile_since(&page, "h", "\"w\"", 0.5), None, "nothing since");
        assert_eq!(page.quantile_since(&none, "h", "\"z\"", 0.5), None);
    }
}
