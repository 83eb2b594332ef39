//! Tells the watchdog that the engine's crash handler has begun, so that one that never ends is seen (godot#108268).
//!
//! Godot sends NOTIFICATION_CRASH to the nodes of the tree, inside the signal handler: one store and nothing else. It does so only
//! when the main thread crashes (another may not touch the tree, 4.6.3); for other threads the watchdog sees the handler's text.

use godot::classes::node::InternalMode;
use godot::classes::notify::NodeNotification;
use godot::classes::{Engine, INode, Node, SceneTree};
use godot::obj::Singleton;
use godot::prelude::*;

use crate::core;

/// Not to be made by scripts.
#[derive(GodotClass)]
#[class(init, internal, base = Node)]
pub(crate) struct SidekickCrashListener {
    base: Base<Node>,
}

#[godot_api]
impl INode for SidekickCrashListener {
    fn on_notification(&mut self, what: NodeNotification) {
        if what == NodeNotification::CRASH
            && let Some(session) = core::session()
        {
            session.mark_crashed();
        }
    }
}

/// Puts the listener under the tree's root, where no script meets it. True once that is done (or nobody watches).
pub(crate) fn listen() -> bool {
    if core::session().is_none() {
        return true;
    }
    let root = Engine::singleton()
        .get_main_loop()
        .and_then(|main_loop| main_loop.try_cast::<SceneTree>().ok())
        .and_then(|tree| tree.get_root());
    let Some(mut root) = root else {
        return false;
    };
    let mut listener = SidekickCrashListener::new_alloc();
    listener.set_name("SidekickCrashListener");
    root.add_child_ex(&listener)
        .internal(InternalMode::BACK)
        .done();
    true
}
