//! Replicas are replaced one after another while clients work, and no request fails.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use crate::fleet::Fleet;
use crate::uploads::{Uploads, file, upload_of};

#[test]
fn a_rolling_restart_under_load_fails_no_request() {
    let fleet = Fleet::start(3, 1);
    let (end, next) = (AtomicBool::new(false), AtomicU64::new(0));
    let (failures, clients) = (Mutex::new(Vec::new()), Uploads::default());
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while !end.load(Ordering::Relaxed) {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    match once(&fleet, number) {
                        Ok(id) => drop(clients.stored.lock().unwrap().insert(number, id)),
                        Err(why) => failures.lock().unwrap().push(why),
                    }
                }
            });
        }
        for at in 0..fleet.replicas.len() {
            let address = fleet.replicas[at].lock().unwrap().address.clone();
            let before = next.load(Ordering::Relaxed);
            fleet.balancer.drain(&address);
            let ended = fleet.replicas[at].lock().unwrap().terminate();
            assert!(ended.success(), "{ended}");
            fleet.start_again(at);
            crate::fleet::within(std::time::Duration::from_secs(20), "clients go on", || {
                (next.load(Ordering::Relaxed) > before + 16).then_some(())
            });
        }
        end.store(true, Ordering::Relaxed);
    });
    assert_eq!(*failures.lock().unwrap(), Vec::<String>::new());
    assert_eq!(fleet.balancer.failed(), 0);
    clients.check_all(&fleet);
    fleet.fsck_clean();
}

/// An upload, and a look at it; none is made again.
fn once(fleet: &Fleet, number: u64) -> Result<i64, String> {
    let reply = upload_of(fleet, number).try_send().map_err(|error| error.to_string())?;
    if reply.code() != 0 {
        return Err(reply.text());
    }
    let id = reply.file_id();
    let target = format!("/v1/files/retrieve_content?file_id={id}");
    let reply = fleet.request("GET", &target).try_send().map_err(|error| error.to_string())?;
    let whole = reply.status == 200 && reply.body == file(number).2;
    whole.then_some(id).ok_or_else(|| format!("content of {number}: {}", reply.status))
}
