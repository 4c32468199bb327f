/*
 * What this run published so far. Apart from outdir.nf, since the strict parser loads a module that has includes once only.
 */

// [ place under --outdir ] that this run published, noted by conf/modules.config and by write_info
def published() {
    return System.properties.stringPropertyNames().findAll { name -> name.startsWith('multivi_nf.published ') }
        .collect { name -> name - 'multivi_nf.published ' }.toSet()
}

def is_published(place) {
    return published().any { mine -> place == mine || mine.startsWith(place + '/') }
}
