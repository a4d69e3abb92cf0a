//! What happens when the log cannot be written, or not at once.

use super::*;

#[test]
fn where_it_is_required_a_failing_sink_closes_the_door_until_it_takes_records_again() {
    let (sink, clock) = (Planted::default(), clock());
    let audit = sink.audit(true, &clock);
    let _ = audit.accept(hit).unwrap();
    until("the first record", || sink.text().lines().count() == 2);
    sink.plan().fails = Some(io::ErrorKind::StorageFull);
    // The first to find out are those who came before anybody knew.
    until("closed", || audit.accept(hit).is_err());
    assert_eq!(audit.ready(), Err(Unaudited));
    sink.plan().fails = None;
    until("open again", || audit.ready().is_ok());
    let _ = audit.accept(hit).unwrap();
    audit.close();
    assert_eq!(audit.accept(hit).map(|_| ()), Err(Unaudited), "nothing is accepted after the end");
    assert_eq!(sink.verified().verdict, Verdict::Whole, "what was accepted was written, whatever came between");
}

#[test]
fn where_it_is_not_required_losses_are_counted_and_recorded() {
    let (sink, clock) = (Planted::default(), clock());
    let audit = sink.audit(false, &clock);
    sink.plan().fails = Some(io::ErrorKind::StorageFull);
    until("the sink was tried", || audit.0.as_ref().unwrap().failing.load(Ordering::SeqCst));
    for _ in 0..250 {
        let _ = audit.accept(hit).unwrap();
    }
    sink.plan().fails = None;
    until("the loss is told", || sink.text().contains("gap"));
    audit.close();
    let written = sink.text().matches("\"answer\"").count() as u64;
    let report = sink.verified();
    assert_eq!(kinds(&report), [Kind::Gap { dropped: 250 - written }]);
    assert_eq!((report.verdict, written), (Verdict::Incomplete, 100));
}

#[test]
fn a_sink_that_does_not_move_closes_the_door_after_a_second() {
    let (sink, clock) = (Planted::default(), clock());
    let audit = sink.audit(true, &clock);
    until("the beginning", || !sink.text().is_empty());
    sink.plan().fails = Some(io::ErrorKind::WouldBlock);
    let _ = audit.accept(hit).unwrap();
    until("the writer is at it", || audit.0.as_ref().unwrap().busy_us.load(Ordering::SeqCst) != 0);
    clock.advance(Duration::from_secs(1));
    let _ = audit.accept(hit).unwrap();
    clock.advance(Duration::from_micros(1));
    assert_eq!(audit.accept(hit).map(|_| ()), Err(Unaudited));
    sink.plan().fails = None;
    until("open again", || audit.ready().is_ok());
}

#[test]
fn a_writer_that_crashes_is_a_sink_that_fails() {
    for required in [true, false] {
        let (sink, clock) = (Planted::default(), clock());
        let audit = sink.audit(required, &clock);
        until("the beginning", || !sink.text().is_empty());
        sink.plan().panics = true;
        let accepted = || audit.accept(hit).map(|_| ());
        let _ = accepted();
        until("the crash", || audit.0.as_ref().unwrap().failing.load(Ordering::SeqCst));
        assert_eq!(accepted(), if required { Err(Unaudited) } else { Ok(()) });
        audit.close();
    }
}

#[test]
fn a_sink_that_takes_little_at_a_time_gets_all_of_it() {
    let (sink, clock) = (Planted::default(), clock());
    sink.plan().mouthful = Some(7);
    let audit = sink.audit(true, &clock);
    for _ in 0..20 {
        let _ = audit.accept(hit).unwrap();
    }
    audit.close();
    assert_eq!(sink.text().lines().count(), 22);
}

#[test]
fn a_sink_that_stops_in_the_middle_of_many_records_gets_each_of_them_once() {
    let (sink, clock, long) = (Planted::default(), clock(), "plugin".repeat(50));
    let audit = sink.audit(true, &clock);
    until("the beginning", || !sink.text().is_empty());
    {
        let mut plan = sink.plan();
        (plan.stutters, plan.mouthful) = (true, Some(20_000));
        for _ in 0..100 {
            let _ = audit.accept(|| Record { caller: &long, ..hit() }).unwrap();
        }
    }
    until("all of them", || sink.text().lines().count() == 101);
    sink.plan().stutters = false;
    audit.close();
    let text = sink.text();
    assert!(text.len() > writer::LINES_AT_ONCE, "more than is offered at once");
    let report = sink.verified();
    assert_eq!((report.verdict, report.records), (Verdict::Whole, 102));
}

#[test]
fn a_log_that_ends_while_its_sink_fails_ends_in_order_where_the_sink_takes_it_at_last() {
    let (sink, clock) = (Planted::default(), clock());
    let audit = sink.audit(false, &clock);
    until("the beginning", || !sink.text().is_empty());
    let (shared, long) = (audit.0.as_ref().unwrap(), "d".repeat(writer::LINES_AT_ONCE));
    let accept = |caller| {
        let _ = audit.accept(|| Record { caller, ..hit() }).unwrap();
    };
    {
        let mut plan = sink.plan();
        plan.chokes = Some((long.len(), u32::MAX));
        accept("a");
        until("the writer is at it", || shared.busy_us.load(Ordering::SeqCst) != 0);
        // So it takes these two at once: one becomes a line, which does not get through, and the other stays as it is.
        accept(&long);
        accept("bb");
    }
    until("the sink was tried", || shared.failing.load(Ordering::SeqCst));
    // And this one stays in the queue.
    accept("ccc");
    sink.plan().chokes = Some((long.len(), writer::CLOSING_TRIES + 1));
    audit.close();
    let text = sink.text();
    let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let callers: Vec<_> = lines.filter_map(|line| Some(line["caller"].as_str()?.len())).collect();
    assert_eq!(callers, [1, long.len(), 2, 3]);
    assert_eq!(sink.verified().verdict, Verdict::Whole);
}

#[test]
fn a_full_disk_is_told_by_the_system() {
    let audit = at(Path::new("/dev/full"));
    until("closed", || audit.ready().is_err());
    assert_eq!(audit.accept(hit).map(|_| ()), Err(Unaudited));
    audit.close();
}
