//! The names of the system calls that can fail. How they are made is in `attempt.rs`.

/// Defines [`Call`] and the list of all of its values.
macro_rules! calls {
    ($($name:ident)*) => {
        /// The system calls that can fail, by the names of their C functions.
        #[allow(non_camel_case_types)]
        #[cfg_attr(not(all(feature = "faults", target_os = "linux")), allow(dead_code))]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Call { $($name),* }

        #[cfg(feature = "faults")]
        impl Call {
            /// Every call.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];
        }
    };
}

calls! {
    accept accept4 connect dup epoll_create1 epoll_ctl epoll_pwait2 epoll_wait eventfd fcntl getpeername getsockname
    getsockopt ioctl poll read recv recvfrom recvmmsg recvmsg select send sendmmsg sendmsg sendto setsockopt shutdown socket
    write writev
}
