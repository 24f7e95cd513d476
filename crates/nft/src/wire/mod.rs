//! The netlink form: attributes, kernel expressions, messages. Pure: bytes in, values out, and back.

pub(crate) mod attr;
pub(crate) mod decode;
pub(crate) mod encode;
pub(crate) mod expr_codec;
pub(crate) mod userdata;

#[cfg(test)]
mod tests;

/// Numbers of `linux/netfilter/nf_tables.h` and `linux/netlink.h` this crate uses.
pub(crate) mod number {
    pub(crate) const NLM_F_REQUEST: u16 = 0x1;
    pub(crate) const NLM_F_ACK: u16 = 0x4;
    pub(crate) const NLM_F_DUMP_INTR: u16 = 0x10;
    pub(crate) const NLM_F_DUMP: u16 = 0x300;
    pub(crate) const NLM_F_CREATE: u16 = 0x400;
    pub(crate) const NLM_F_APPEND: u16 = 0x800;
    pub(crate) const NLM_F_CAPPED: u16 = 0x100;
    pub(crate) const NLM_F_ACK_TLVS: u16 = 0x200;

    pub(crate) const NLMSG_ERROR: u16 = 2;
    pub(crate) const NLMSG_DONE: u16 = 3;
    pub(crate) const BATCH_BEGIN: u16 = 0x10;
    pub(crate) const BATCH_END: u16 = 0x11;

    pub(crate) const SUBSYS_CTNETLINK: u16 = 1;
    pub(crate) const SUBSYS_NFTABLES: u16 = 10;

    pub(crate) const TABLE_OWNER: u32 = 0x2;

    pub(crate) const NEWTABLE: u16 = 0;
    pub(crate) const GETTABLE: u16 = 1;
    pub(crate) const DELTABLE: u16 = 2;
    pub(crate) const NEWCHAIN: u16 = 3;
    pub(crate) const GETCHAIN: u16 = 4;
    pub(crate) const DELCHAIN: u16 = 5;
    pub(crate) const NEWRULE: u16 = 6;
    pub(crate) const GETRULE: u16 = 7;
    pub(crate) const DELRULE: u16 = 8;
    pub(crate) const NEWSET: u16 = 9;
    pub(crate) const GETSET: u16 = 10;
    pub(crate) const DELSET: u16 = 11;
    pub(crate) const NEWSETELEM: u16 = 12;
    pub(crate) const GETSETELEM: u16 = 13;
    pub(crate) const DELSETELEM: u16 = 14;
    pub(crate) const NEWGEN: u16 = 15;
    pub(crate) const GETGEN: u16 = 16;

    pub(crate) const SET_ANONYMOUS: u32 = 0x1;
    pub(crate) const SET_CONSTANT: u32 = 0x2;
    pub(crate) const SET_INTERVAL: u32 = 0x4;
    pub(crate) const SET_MAP: u32 = 0x8;
    pub(crate) const SET_TIMEOUT: u32 = 0x10;
    pub(crate) const SET_EVAL: u32 = 0x20;
    pub(crate) const SET_OBJECT: u32 = 0x40;
    pub(crate) const SET_CONCAT: u32 = 0x80;
    pub(crate) const DATA_VERDICT: u32 = 0xffff_ff00;
    pub(crate) const ELEM_INTERVAL_END: u32 = 1;
}

/// The message type of an nf_tables message.
pub(crate) const fn message_type(message: u16) -> u16 {
    number::SUBSYS_NFTABLES << 8 | message
}
