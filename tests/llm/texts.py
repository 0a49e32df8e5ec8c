"""Texts that several tests divide into units."""

from __future__ import annotations

from hypothesis import strategies as st

unicode_text = st.text(
    st.one_of(
        st.characters(exclude_categories=["Cs"]),
        st.sampled_from(
            list(" \n\r\t.!?\"'“”«»()[]。！？「」、…Dr3,;:-$€🙂👩🔬\u200d\ufe0f\u0301\x00\x0b\x0c\x1c\x85")
        ),
        st.sampled_from(list("\u2028\u2029\u00a0\u3000\u200b\ufeff\u202e\u0600אمक्षไทย日本語")),
    ),
    max_size=40,
)
