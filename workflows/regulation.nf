/*
 * Between peaks and genes, with --regulation: every part a process that reads the finished embedding, the fragments and
 * the genome. A part whose inputs a run does not have says so in <part>.json, and the run goes on.
 *
 *   multivi.h5mu ─┬─ TRACKS
 *   fragments ────┴─ GENE_ACTIVITY
 */

include { TRACKS        } from '../modules/tracks'
include { GENE_ACTIVITY } from '../modules/gene_activity'

workflow REGULATION {
    take:
    ch_embedding // channel: multivi.h5mu (one)
    ch_sources   // channel: [ [ sample ], [ fragments ], [ sample with a map ], [ barcode map ] ] (one), in samplesheet order
    genome       // Map: genome, chrom_style, mito_contig
    chrom_sizes  // path or []
    gtf          // path or []
    groups       // text: a column of obs

    main:
    TRACKS(ch_embedding, ch_sources, genome + [groups: groups], chrom_sizes)
    GENE_ACTIVITY(ch_embedding, ch_sources, genome, chrom_sizes, gtf)

    ch_facts = TRACKS.out.facts.mix(GENE_ACTIVITY.out.facts)
    ch_facts.subscribe { json -> tell_undone(json) }

    emit:
    facts     = ch_facts                                                // channel: <part>.json
    resources = TRACKS.out.resources.mix(GENE_ACTIVITY.out.resources) // channel: <part>.resources.json
}

// What a part could not do is told on the terminal as it happens
def tell_undone(json) {
    def facts = new groovy.json.JsonSlurper().parse(json.toFile())
    facts.done ? null : log.warn("--regulation: no ${facts.part}: ${facts.what} (${facts.why}). What to do: ${facts.remedy}")
}
