/* Opens the card of a network to which a link leads. */
function openCard() {
  const card = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (card?.matches("details.network")) card.open = true;
}

addEventListener("hashchange", openCard);
openCard();
