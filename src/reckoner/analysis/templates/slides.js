"use strict";
// Arrow keys, space, Home and End go through the slides; n shows the presenter's notes.

const slides = [...document.querySelectorAll("section")];
const place = document.getElementById("place");

function current() {
  const middle = innerHeight / 2;
  return Math.max(0, slides.findIndex((slide) => slide.getBoundingClientRect().bottom > middle));
}

function go(index) {
  const slide = slides[Math.min(Math.max(index, 0), slides.length - 1)];
  slide.scrollIntoView();
  slide.focus({ preventScroll: true });
}

const STEPS = {
  ArrowRight: () => current() + 1, ArrowDown: () => current() + 1, PageDown: () => current() + 1, " ": () => current() + 1,
  ArrowLeft: () => current() - 1, ArrowUp: () => current() - 1, PageUp: () => current() - 1,
  Home: () => 0, End: () => slides.length - 1,
};

addEventListener("keydown", (event) => {
  if (event.target.closest("summary, pre") || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "n") document.body.classList.toggle("noted");
  if (!(event.key in STEPS)) return;
  event.preventDefault();
  go(STEPS[event.key]());
});

function count() {
  place.textContent = `${current() + 1} / ${slides.length}`;
}

addEventListener("scroll", count, { passive: true });
count();
